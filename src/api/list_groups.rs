//! ListGroups (16).

use super::groups::text;
use crate::base::error::ErrorCode;
use crate::coord::op::Listed;
use crate::wire::codec::list_groups_response::ListedGroup;
use crate::wire::codec::{ListGroupsRequest, ListGroupsResponse, StrBytes};

/// The states and types that are asked for; none: all.
pub fn filters(request: &ListGroupsRequest) -> (Vec<String>, Vec<String>) {
    let trimmed = |filter: &[StrBytes]| filter.iter().map(|f| f.trim().to_owned()).collect();
    (trimmed(&request.states_filter), trimmed(&request.types_filter))
}

/// The answer.
pub fn respond(listed: Result<Vec<Listed>, ErrorCode>) -> ListGroupsResponse {
    let mut response = ListGroupsResponse::default();
    let entry = |listed: Listed| {
        let mut entry = ListedGroup::default();
        entry.group_id = text(&listed.group);
        entry.protocol_type = text(&listed.protocol_type);
        entry.group_state = listed.state.into();
        entry.group_type = listed.kind.into();
        entry
    };
    match listed {
        Ok(listed) => response.groups = listed.into_iter().map(entry).collect(),
        Err(code) => response.error_code = code.code(),
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::wire::versions::ApiKey;

    #[test]
    fn every_version_encodes() {
        let listed = Listed { group: "g".into(), protocol_type: "consumer".into(), state: "Stable", kind: "classic" };
        in_every_version(ApiKey::ListGroups, |_| respond(Ok(vec![listed.clone()])));
        in_every_version(ApiKey::ListGroups, |_| respond(Err(ErrorCode::CoordinatorLoadInProgress)));
    }
}
