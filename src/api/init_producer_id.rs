//! InitProducerId (22): an id for an idempotent producer.

use crate::base::error::ErrorCode;
use crate::base::ids::ProducerId;
use crate::wire::codec::{InitProducerIdRequest, InitProducerIdResponse};

pub use crate::cluster::controller::{PRODUCER_ID_BLOCK, ProducerIds, allocate_producer_ids};

/// The answer when no new ids were to be had in time: Kafka's, which every producer tries again after.
pub const NO_BLOCK: ErrorCode = ErrorCode::CoordinatorLoadInProgress;

/// Whether an id is to be given; else the code to answer with. Transactions are not part of this broker yet: it says so.
pub fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    match request.transactional_id.as_deref() {
        Some("") => Err(ErrorCode::InvalidRequest),
        Some(_) => Err(ErrorCode::UnsupportedVersion),
        // An id and an epoch come together or not at all. A producer that brings its old ones gets a new id all the same.
        None if (request.producer_id == -1) != (request.producer_epoch == -1) => Err(ErrorCode::InvalidRequest),
        None => Ok(()),
    }
}

/// The answer: a fresh id ([`ProducerIds::take`]), or why there is none.
pub fn respond(id: Result<ProducerId, ErrorCode>) -> InitProducerIdResponse {
    let mut response = InitProducerIdResponse::default();
    (response.error_code, response.producer_id, response.producer_epoch) = match id {
        Ok(id) => (0, id, 0),
        Err(code) => (code.code(), -1, -1),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::codec;
    use crate::wire::versions::ApiKey;

    #[test]
    fn who_gets_an_id() {
        let mut request = InitProducerIdRequest::default();
        request.transactional_id = None;
        for version in ApiKey::InitProducerId.accepted() {
            let bytes = codec::encode(&request, version).unwrap();
            assert_eq!(check(&codec::decode(bytes, version).unwrap()), Ok(()), "version {version}");
        }
        request.producer_id = 5;
        assert_eq!(check(&request), Err(ErrorCode::InvalidRequest));
        request.producer_epoch = 0;
        assert_eq!(check(&request), Ok(()));
        request.transactional_id = Some("t".into());
        assert_eq!(check(&request), Err(ErrorCode::UnsupportedVersion));
        request.transactional_id = Some("".into());
        assert_eq!(check(&request), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn every_version_encodes() {
        in_every_version(ApiKey::InitProducerId, |_| respond(Ok(7)));
        let refused = respond(Err(ErrorCode::InvalidRequest));
        assert_eq!((refused.error_code, refused.producer_id, refused.producer_epoch), (42, -1, -1));
    }
}
