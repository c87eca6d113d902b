//! The queue and the back-off under a clock that stands still.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use renet::agent::{Backoff, Queue, random};
use tokio::time::{Instant, advance, sleep, timeout};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The next key, if one is due now.
async fn now(queue: &Queue<&'static str>) -> Option<&'static str> {
    timeout(Duration::ZERO, queue.next()).await.ok()
}

#[tokio::test(start_paused = true)]
async fn keys_come_when_they_are_due_and_the_earliest_time_wins() {
    let queue = Queue::new();
    let began = Instant::now();
    queue.add_after("late", s(60));
    queue.add_after("early", s(10));
    queue.add_after("never", Duration::MAX);
    queue.add_after("early", s(30));
    queue.add_after("late", s(20));
    assert_eq!(queue.depth(), 3);
    assert_eq!(now(&queue).await, None);
    assert_eq!(queue.next().await, "early");
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(queue.next().await, "late");
    assert_eq!(began.elapsed().as_secs(), 20);
    queue.add("now");
    assert_eq!(now(&queue).await, Some("now"));
    assert_eq!(queue.depth(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_added_ends_a_wait_at_once() {
    let queue = Arc::new(Queue::new());
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { (queue.next().await, queue.next().await, Instant::now()) }
    });
    let began = Instant::now();
    queue.add_after("later", s(3600));
    sleep(s(1)).await;
    queue.add("a");
    sleep(s(1)).await;
    queue.add("b");
    let (a, b, at) = waiting.await.unwrap();
    assert_eq!((a, b), ("a", "b"));
    assert!(at - began < s(3));
}

#[tokio::test(start_paused = true)]
async fn done_ends_a_wait_for_a_key_that_was_added_meanwhile() {
    let queue = Arc::new(Queue::new());
    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.add("a");
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { timeout(s(60), queue.next()).await }
    });
    sleep(s(1)).await;
    let began = Instant::now();
    queue.done(&"a");
    assert_eq!(waiting.await.unwrap(), Ok("a"));
    assert!(began.elapsed() < s(1));
}

#[tokio::test(start_paused = true)]
async fn a_running_key_is_handed_out_again_only_when_done_and_once() {
    let queue = Queue::new();
    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    for _ in 0..1000 {
        queue.add("a");
        queue.add_after("a", s(5));
    }
    assert_eq!(queue.depth(), 1);
    advance(s(3600)).await;
    assert_eq!(now(&queue).await, None);
    queue.done(&"a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.done(&"a");
    queue.done(&"a");
    advance(s(3600)).await;
    assert_eq!(now(&queue).await, None);

    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.add_after("a", s(5));
    queue.done(&"a");
    assert_eq!(now(&queue).await, None);
    advance(s(5)).await;
    assert_eq!(now(&queue).await, Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_key_is_not_due_and_one_that_runs_stays_so() {
    let queue = Queue::new();
    queue.add("a");
    queue.add_after("b", s(1));
    queue.forget(&"a");
    queue.forget(&"b");
    advance(s(2)).await;
    assert_eq!(now(&queue).await, None);

    queue.add("a");
    assert_eq!(now(&queue).await, Some("a"));
    queue.add("a");
    queue.forget(&"a");
    queue.add_after("a", s(1));
    advance(s(2)).await;
    assert_eq!(now(&queue).await, None);
    queue.done(&"a");
    assert_eq!(now(&queue).await, Some("a"));
    assert_eq!(queue.depth(), 0);
}

#[test]
fn backoff_doubles_from_a_second_to_five_minutes() {
    let mut backoff = Backoff::new(|| 0.5);
    let delays: Vec<u64> = (0..12).map(|_| backoff.failed(&"a").as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    for _ in 0..1000 {
        backoff.failed(&"a");
    }
    assert_eq!(backoff.failed(&"a"), s(300));
    assert_eq!(backoff.failed(&"b"), s(1));
    backoff.reset(&"a");
    assert_eq!(backoff.failed(&"a"), s(1));
    assert_eq!(backoff.failed(&"b"), s(2));
}

#[test]
fn backoff_spreads_by_a_fifth() {
    assert_eq!(Backoff::new(|| 0.0).failed(&1), ms(800));
    assert_eq!(Backoff::new(|| 1.0).failed(&1), ms(1200));
    let mut backoff = Backoff::new(random);
    let delays: BTreeSet<Duration> = (0..100).map(|key| backoff.failed(&key)).collect();
    assert!(delays.len() > 50);
    assert!(
        delays
            .iter()
            .all(|delay| (ms(800)..=ms(1200)).contains(delay))
    );
    let numbers: Vec<f64> = (0..1000).map(|_| random()).collect();
    assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
    let mean = numbers.iter().sum::<f64>() / 1000.0;
    assert!((0.4..0.6).contains(&mean), "{mean}");
}
