// A line server for the test of a Rust binary: "add N" is answered "sum S total T ticks K". A thread for each
// connection, results handed over a channel, a ticking thread. Prints its port.
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

fn main() {
    let ticks = Arc::new(AtomicI64::new(0));
    let counting = ticks.clone();
    thread::Builder::new()
        .name("ticker".to_string())
        .spawn(move || loop {
            thread::sleep(Duration::from_millis(10));
            counting.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
    let (to_adder, additions) = mpsc::channel::<(i64, mpsc::Sender<i64>)>();
    thread::spawn(move || {
        let mut total = 0;
        for (number, answer) in additions {
            total += number;
            answer.send(total).unwrap();
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let to_adder = to_adder.clone();
        let ticks = ticks.clone();
        thread::spawn(move || {
            let mut sum = 0;
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let number: i64 = line.unwrap()[4..].parse().unwrap();
                sum += number;
                let (answer, total) = mpsc::channel();
                to_adder.send((number, answer)).unwrap();
                let now = ticks.load(Ordering::SeqCst);
                writeln!(stream, "sum {} total {} ticks {}", sum, total.recv().unwrap(), now).unwrap();
            }
        });
    }
}
