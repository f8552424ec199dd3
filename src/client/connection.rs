//! One connection to one node.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;

use super::{Api, ClientError};
use crate::base::error::ErrorCode;
use crate::base::limits::RESPONSE_MAX;
use crate::wire::WireError;
use crate::wire::codec::{ApiVersionsRequest, decode_any_size};
use crate::wire::frame::{parse_response_to, request_frame};

/// A connected socket and what its broker can do.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: String,
    client_id: String,
    timeout: Duration,
    correlation_id: i32,
    /// API key, lowest and highest version.
    offered: Vec<(i16, i16, i16)>,
}

impl Connection {
    /// Connects to HOST:PORT and asks for the broker's versions. `timeout` is for each step, and later for each answer.
    pub fn open(address: &str, client_id: &str, timeout: Duration) -> Result<Connection, ClientError> {
        let stream = connect(address, timeout).map_err(|error| ClientError::Unreachable(address.to_owned(), reason(&error)))?;
        let (address, client_id) = (address.to_owned(), client_id.to_owned());
        let mut connection = Connection { stream, address, client_id, timeout, correlation_id: 0, offered: Vec::new() };
        connection.ask_versions()?;
        Ok(connection)
    }

    fn ask_versions(&mut self) -> Result<(), ClientError> {
        let mut request = ApiVersionsRequest::default();
        request.client_software_name = "corelane".into();
        request.client_software_version = env!("CARGO_PKG_VERSION").into();
        self.send(&request, *ApiVersionsRequest::VERSIONS.end())?;
        let mut body = self.receive::<ApiVersionsRequest>(*ApiVersionsRequest::VERSIONS.end(), self.timeout)?;
        let mut version = *ApiVersionsRequest::VERSIONS.end();
        if body.get(..2) == Some(&ErrorCode::UnsupportedVersion.code().to_be_bytes()) {
            // An old broker says so in the form of version 0 (KIP-511).
            version = 0;
            self.send(&request, version)?;
            body = self.receive::<ApiVersionsRequest>(version, self.timeout)?;
        }
        let response: crate::wire::codec::ApiVersionsResponse = decode_any_size(body, version)?;
        ClientError::check(response.error_code, None)?;
        self.offered = response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
        Ok(())
    }

    /// The version of a request that both sides know.
    pub fn version<Q: Api>(&self) -> Result<i16, ClientError> {
        let unsupported = ClientError::Unsupported(Q::API);
        let &(_, low, high) = self.offered.iter().find(|(key, ..)| *key == Q::API_KEY.value()).ok_or(unsupported.clone())?;
        let version = high.min(*Q::VERSIONS.end());
        if version >= low.max(*Q::VERSIONS.start()) { Ok(version) } else { Err(unsupported) }
    }

    /// Asks and waits for the answer, at most for the connection's timeout.
    pub fn call<Q: Api>(&mut self, request: &Q) -> Result<Q::Response, ClientError> {
        self.call_within(request, self.timeout)
    }

    /// As [`Connection::call`], for a question that takes its time.
    pub fn call_within<Q: Api>(&mut self, request: &Q, timeout: Duration) -> Result<Q::Response, ClientError> {
        let version = self.version::<Q>()?;
        self.send(request, version)?;
        let body = self.receive::<Q>(version, timeout)?;
        Ok(decode_any_size(body, version)?)
    }

    /// Sends what is not answered.
    pub fn tell<Q: Api>(&mut self, request: &Q) -> Result<(), ClientError> {
        let version = self.version::<Q>()?;
        self.send(request, version)
    }

    fn send<Q: Api>(&mut self, request: &Q, version: i16) -> Result<(), ClientError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let frame = request_frame(version, self.correlation_id, Some(&self.client_id), request)?;
        self.stream.write_all(&frame).map_err(|error| self.lost(&error))
    }

    fn receive<Q: Api>(&mut self, version: i16, timeout: Duration) -> Result<Bytes, ClientError> {
        // No timeout at all is what zero means to the system.
        self.stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).map_err(|error| self.lost(&error))?;
        let frame = read_frame(&mut self.stream).map_err(|error| self.lost(&error))?;
        let (correlation_id, body) = parse_response_to::<Q>(version, frame.into())?;
        if correlation_id != self.correlation_id {
            return Err(WireError::Malformed("correlation id").into());
        }
        Ok(body)
    }

    fn lost(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(self.address.clone()),
            _ => ClientError::Lost(self.address.clone(), reason(error)),
        }
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for resolved in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One frame without its size. Memory grows with what arrives, not with what is announced.
fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let announced = usize::try_from(i32::from_be_bytes(size)).ok().filter(|size| *size <= RESPONSE_MAX);
    let announced = announced.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no Kafka broker"))?;
    let mut frame = Vec::new();
    stream.take(announced as u64).read_to_end(&mut frame)?;
    if frame.len() < announced { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(frame) }
}

/// The system's words, without its numbers.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side closed it".to_owned(),
        _ => error.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_and_whole() {
        assert_eq!(read_frame(&mut &[0, 0, 0, 2, 7, 8, 9][..]).unwrap(), [7, 8]);
        let kind = |bytes: &[u8]| read_frame(&mut &bytes[..]).unwrap_err().kind();
        assert_eq!(kind(&[0, 0, 0, 2, 7]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(b"HTTP/1.1 400"), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[0xff; 8]), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nobody_there() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let error = Connection::open(&address, "test", Duration::from_secs(5)).unwrap_err();
        assert_eq!(error, ClientError::Unreachable(address, "Connection refused".to_owned()));
        let error = Connection::open("no-port", "test", Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable(..)));
    }
}
