//! Many daemons beside each other: what is done to one no other feels.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    answers: Arc<AtomicUsize>,
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
        let answers = Arc::new(AtomicUsize::new(0));
        let (spare, end, count) = (spared.clone(), stop.clone(), answers.clone());
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
                count.fetch_add(1, Ordering::SeqCst);
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
            answers,
            asking: Some(asking),
        }
    }

    /// Waits until it was asked.
    fn is_answered(&self) {
        let began = Instant::now();
        while self.answers.load(Ordering::SeqCst) == 0 {
            assert!(began.elapsed() < 10 * PATIENCE, "nobody answers");
            std::thread::sleep(BETWEEN);
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
    for load in &loads {
        load.is_answered();
    }
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

    // All at once, by one command.
    let open = || lab.loops().len();
    let said = lab.expect(0, &["repository", "down", "--all", "--dry-run"]);
    assert_eq!(said.matches("would stop r").count(), count, "{said}");
    assert!(open() > count);
    lab.expect(
        0,
        &["repository", "down", "--all", "--unmount", "--parallel"],
    );
    assert!(open() <= 1, "{:?}", lab.loops());
    lab.says(2, &["repository", "up", "--all", "--name", "r0"], "--name");
    lab.says(
        2,
        &["repository", "up", "--all", "--password-stdin"],
        "--all",
    );
    lab.expect(0, &["repository", "up", "--all", "--mount-only"]);
    assert!(open() > count);
    lab.expect(0, &["repository", "up", "--all", "--concurrency", "2"]);
    lab.expect(0, &["diff"]);
    // One that cannot come up holds up no other.
    lab.expect(0, &["repository", "down", "--all", "--unmount"]);
    let first = lab.image(&lab.guid("r0"));
    let aside = first.with_extension("aside");
    std::fs::rename(&first, &aside).unwrap();
    let said = lab.expect(3, &["repository", "up", "--all"]);
    assert!(said.contains("r0"), "{said}");
    for network in &networks[1..] {
        let first = (127 << 24) + network.parse::<u32>().unwrap() + 2;
        let address = SocketAddr::from((Ipv4Addr::from(first), 8080));
        assert!(ask(address).unwrap().contains(" 200 "), "{network}");
    }
    std::fs::rename(&aside, &first).unwrap();
    lab.uninstall();
}
