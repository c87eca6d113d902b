//! Many daemons beside each other: what is done to one no other feels.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lab::Lab;
use crate::dice::{Dice, long};

const BETWEEN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one service again and again, unless it is told that nobody answers now.
struct Load {
    spared: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    asking: Option<JoinHandle<Asked>>,
}

#[derive(Debug, Default)]
struct Asked {
    requests: usize,
    slowest: Duration,
    lost: Vec<String>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (spared, stop) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (spare, end) = (spared.clone(), stop.clone());
        let asking = std::thread::spawn(move || {
            let mut asked = Asked::default();
            while !end.load(Ordering::SeqCst) {
                std::thread::sleep(BETWEEN);
                let before = spare.load(Ordering::SeqCst);
                let began = Instant::now();
                let answer = ask(address);
                // What began or ended within a change of its own says nothing.
                if before || spare.load(Ordering::SeqCst) {
                    continue;
                }
                asked.requests += 1;
                asked.slowest = asked.slowest.max(began.elapsed());
                match answer {
                    Ok(text) if text.contains(" 200 ") => {}
                    other => asked
                        .lost
                        .push(format!("{other:?} after {:?}", began.elapsed())),
                }
            }
            asked
        });
        Self {
            spared,
            stop,
            asking: Some(asking),
        }
    }

    fn spare(&self, spared: bool) {
        self.spared.store(spared, Ordering::SeqCst);
    }

    fn end(mut self) -> Asked {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.take().unwrap().join().unwrap()
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn l42_what_starts_and_stops_disturbs_no_other() {
    let Some(lab) = Lab::empty("many") else {
        return;
    };
    let (count, rounds) = if long() { (20, 40) } else { (3, 4) };
    let mut dice = Dice::new();
    lab.machine("4G");
    let names: Vec<String> = (0..count).map(|n| format!("r{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        lab.repository(name, "");
        lab.service(name, &format!("s{n}"));
    }
    lab.expect(0, &["apply"]);
    let networks: Vec<String> = names.iter().map(|name| lab.network_of(name)).collect();
    let loads: Vec<Load> = networks
        .iter()
        .map(|network| {
            let first = (127 << 24) + network.parse::<u32>().unwrap() + 2;
            Load::on(SocketAddr::from((Ipv4Addr::from(first), 8080)))
        })
        .collect();
    let mut runs = vec![true; count];
    for round in 0..rounds {
        let which = dice.below(count as u64) as usize;
        let what = match (runs[which], dice.below(2)) {
            (true, 0) => "stop",
            (true, _) => "restart",
            (false, _) => "start",
        };
        println!("{round}: {what} {}", names[which]);
        loads[which].spare(true);
        lab.expect(0, &["daemon", what, "--network-id", &networks[which]]);
        runs[which] = what != "stop";
        if runs[which] {
            lab.expect(0, &["apply"]);
            loads[which].spare(false);
        }
    }
    for (name, load) in names.iter().zip(loads) {
        let asked = load.end();
        println!(
            "{name}: {} requests, slowest {:?}",
            asked.requests, asked.slowest
        );
        assert!(asked.requests > 0, "{name} was never asked");
        assert!(asked.lost.is_empty(), "{name}: {:?}", asked.lost);
    }
    lab.uninstall();
}
