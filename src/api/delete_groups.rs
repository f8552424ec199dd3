//! DeleteGroups (42): groups without members, and their offsets.

use crate::coord::op::Reply;
use crate::wire::codec::delete_groups_response::DeletableGroupResult;
use crate::wire::codec::{DeleteGroupsRequest, DeleteGroupsResponse};

/// The answer from the coordinators' replies, one for each group of the request.
pub fn respond(request: &DeleteGroupsRequest, replies: Vec<Reply>) -> DeleteGroupsResponse {
    let mut response = DeleteGroupsResponse::default();
    for (group, reply) in request.groups_names.iter().zip(replies) {
        let mut entry = DeletableGroupResult::default();
        entry.group_id = group.clone();
        entry.error_code = reply.err().map_or(0, |code| code.code());
        response.results.push(entry);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::base::error::ErrorCode;
    use crate::coord::op::Answer;
    use crate::wire::versions::ApiKey;

    #[test]
    fn every_version_encodes() {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec!["g".into(), "h".into()];
        let replies = || vec![Ok(Answer::Done), Err(ErrorCode::NonEmptyGroup)];
        in_every_version(ApiKey::DeleteGroups, |_| respond(&request, replies()));
        let codes: Vec<_> = respond(&request, replies()).results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, 68]);
    }
}
