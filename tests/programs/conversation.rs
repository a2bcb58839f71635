// SPDX-License-Identifier: GPL-2.0-or-later

//! A client and a service in Rust, each in a thread of its own: `conversation ROUNDS`.
//!
//! Without crates: what `std` has no words for is declared here. It prints how many answers came. Commands and messages
//! are arrays of words, as all their fields are.

use std::ffi::CString;
use std::io::Error;
use std::os::raw::{c_char, c_int, c_ulong, c_void};
use std::thread;

extern "C" {
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(at: *mut c_void, size: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn poll(fds: *mut PollFd, count: c_ulong, milliseconds: c_int) -> c_int;
    fn getuid() -> u32;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

const BUS_MAKE: c_ulong = 0x4020_9500;
const HELLO: c_ulong = 0xc068_9520;
const SEND: c_ulong = 0xc048_9530;
const RECV: c_ulong = 0xc048_9531;
const FREE: c_ulong = 0x4028_9532;

const PAYLOAD_VEC: u64 = 1;
const PAYLOAD_OFF: u64 = 2;
const BLOOM: u64 = 6;
const MAKE_NAME: u64 = 10;

const EXPECT_REPLY: u64 = 1;
const FOREVER: u64 = u64::MAX / 2;
const POOL: usize = 1 << 20;
const O_RDWR_CLOEXEC: c_int = 0o2000002;
const EAGAIN: i32 = 11;

struct Peer {
    fd: c_int,
    id: u64,
    pool: *const u8,
}

unsafe impl Send for Peer {}

fn command(fd: c_int, request: c_ulong, words: &mut [u64]) -> Result<(), Error> {
    words[0] = 8 * words.len() as u64;
    match unsafe { ioctl(fd, request, words.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn open_node(path: &str) -> c_int {
    let name = CString::new(path).unwrap();
    let fd = unsafe { open(name.as_ptr(), O_RDWR_CLOEXEC) };
    assert!(fd >= 0, "{}: {}", path, Error::last_os_error());
    fd
}

fn make_bus(name: &str) {
    let mut words = vec![0, 0, 0, 0, 32, BLOOM, 64, 1, 16 + name.len() as u64 + 1, MAKE_NAME];
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(name.len() / 8 * 8 + 8, 0);
    words.extend(bytes.chunks(8).map(|each| u64::from_ne_bytes(each.try_into().unwrap())));
    command(open_node("/sys/fs/kdbus/control"), BUS_MAKE, &mut words).expect("BUS_MAKE");
}

impl Peer {
    fn new(path: &str) -> Peer {
        let fd = open_node(path);
        let mut words = [0; 13];
        words[8] = POOL as u64;
        command(fd, HELLO, &mut words).expect("HELLO");
        let pool = unsafe { mmap(std::ptr::null_mut(), POOL, 1, 1, fd, 0) };
        assert!(pool as isize != -1, "mmap: {}", Error::last_os_error());
        Peer { fd, id: words[7], pool: pool as *const u8 }
    }

    fn word(&self, offset: u64) -> u64 {
        assert!(offset as usize <= POOL - 8);
        unsafe { (self.pool.add(offset as usize) as *const u64).read() }
    }

    fn payload(&self, message: u64) -> Vec<u8> {
        let end = message + self.word(message);
        let mut item = message + 64;
        while item < end {
            if self.word(item + 8) == PAYLOAD_OFF {
                let (size, start) = (self.word(item + 16) as usize, self.word(item + 24) as usize);
                assert!(start + size <= POOL);
                return unsafe { std::slice::from_raw_parts(self.pool.add(start), size) }.to_vec();
            }
            item += (self.word(item) + 7) & !7;
        }
        panic!("a message without payload");
    }

    fn free(&self, offset: u64) {
        command(self.fd, FREE, &mut [0, offset, 0, 0, 0]).expect("FREE");
    }

    /// Where the answer is, if `flags` ask for one.
    fn send(&self, to: u64, cookie: u64, flags: u64, deadline: u64, text: &[u8]) -> u64 {
        let address = text.as_ptr() as u64;
        let message = [96, flags, 0, to, 0, 7, cookie, deadline, 32, PAYLOAD_VEC, text.len() as u64, address];
        let mut call = [0, flags & EXPECT_REPLY, 0, 0, 0, message.as_ptr() as u64, 0, 0, 0];
        command(self.fd, SEND, &mut call).expect("SEND");
        call[6]
    }

    fn receive(&self) -> u64 {
        loop {
            let mut words = [0; 9];
            match command(self.fd, RECV, &mut words) {
                Ok(()) => return words[6],
                Err(error) => assert_eq!(error.raw_os_error(), Some(EAGAIN), "RECV"),
            }
            let mut wait = PollFd { fd: self.fd, events: 1, revents: 0 };
            assert!(unsafe { poll(&mut wait, 1, 30_000) } >= 0, "poll: {}", Error::last_os_error());
        }
    }
}

fn main() {
    let rounds: u64 = std::env::args().nth(1).expect("ROUNDS").parse().expect("a number");
    let name = format!("{}-rust.{}", unsafe { getuid() }, std::process::id());
    make_bus(&name);
    let path = format!("/sys/fs/kdbus/{}/bus", name);
    let (service, client) = (Peer::new(&path), Peer::new(&path));
    let to = service.id;
    let server = thread::spawn(move || {
        for _ in 0..rounds {
            let message = service.receive();
            let answer = service.payload(message).to_ascii_uppercase();
            let (from, cookie) = (service.word(message + 32), service.word(message + 48));
            service.free(message);
            service.send(from, 1, 0, cookie, &answer);
        }
    });
    let mut answers = 0;
    for cookie in 1..=rounds {
        let text = format!("question {}", cookie);
        let answer = client.send(to, cookie, EXPECT_REPLY, FOREVER, text.as_bytes());
        answers += (client.payload(answer) == text.to_ascii_uppercase().as_bytes()) as u64;
        client.free(answer);
    }
    server.join().unwrap();
    println!("{} answers", answers);
}
