//! The null responder: takes whole requests and gives canned answers, with a blocking thread per connection. What the generator reaches
//! against it is the generator's own ceiling on this machine.

use std::{
    io::{self, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use crate::{
    batch::{Stamp, Template},
    wire::{Put, Take, malformed, seal},
};

/// Serves until the process ends. Fetches are answered with batches like `template`, up to the bytes they ask for.
pub fn serve(listener: &TcpListener, template: &Arc<Template>) -> io::Result<()> {
    for socket in listener.incoming() {
        let (socket, template) = (socket?, Arc::clone(template));
        // A connection that ends ends its thread: the generator tells why.
        thread::spawn(move || respond(&socket, &template));
    }
    Ok(())
}

fn respond(socket: &TcpStream, template: &Template) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 << 10, socket);
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    let mut records = Vec::new();
    loop {
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        frame.resize(u32::from_be_bytes(size) as usize, 0);
        reader.read_exact(&mut frame)?;
        let mut take = Take::new(&frame);
        let (key, _version, id) = (take.i16()?, take.i16()?, take.i32()?);
        take.string()?;
        take.tags()?;
        match key {
            0 => produce(&mut take, id, &mut out)?,
            1 => fetch(&mut take, id, template, &mut records, &mut out)?,
            _ => return Err(malformed("only Produce and Fetch are known here")),
        }
        // As a broker does: answers wait for as long as there are requests to work on.
        let more = reader.buffer().first_chunk::<4>().is_some_and(|size| reader.buffer().len() >= 4 + u32::from_be_bytes(*size) as usize);
        if !more || out.len() >= 64 << 10 {
            (&*socket).write_all(&out)?;
            out.clear();
        }
    }
}

fn produce(take: &mut Take, id: i32, out: &mut Vec<u8>) -> io::Result<()> {
    take.compact_length()?; // transactional id: null
    if take.i16()? == 0 {
        return Ok(());
    }
    let start = out.len();
    answer(out, id);
    out.uvarint(2);
    out.compact_string("");
    out.uvarint(2);
    out.i32(0);
    out.i16(0);
    out.i64(0); // base offset
    out.i64(-1);
    out.i64(0);
    out.uvarint(1);
    out.uvarint(0);
    out.extend([0; 2]);
    out.i32(0);
    out.uvarint(0);
    seal(&mut out[start..], 0);
    Ok(())
}

fn fetch(take: &mut Take, id: i32, template: &Template, records: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
    take.slice(12)?; // replica, wait, least bytes
    let most = take.i32()?.max(1) as usize;
    if records.is_empty() {
        let stamp = Stamp { run: 0, connection: 0, sequence: 0, intended: 0 };
        for _ in 0..(most / template.batch_len()).max(1) {
            template.put_head(records, &stamp);
            records.extend(&template.tail()[..template.tail().len() - 3]);
        }
    }
    let start = out.len();
    answer(out, id);
    out.i32(0);
    out.i16(0);
    out.i32(0);
    out.uvarint(2);
    out.compact_string("");
    out.uvarint(2);
    out.i32(0);
    out.i16(0);
    out.i64(i64::MAX); // high watermark: the end is never reached
    out.i64(i64::MAX);
    out.i64(0);
    out.uvarint(0);
    out.i32(-1);
    out.uvarint(records.len() as u64 + 1);
    let ends = [0; 3];
    seal(&mut out[start..], records.len() + ends.len());
    out.extend(&*records);
    out.extend(ends);
    Ok(())
}

fn answer(out: &mut Vec<u8>, id: i32) {
    out.i32(0);
    out.i32(id);
    out.uvarint(0);
}
