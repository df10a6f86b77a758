//! What a bucket says when it refuses, in words that name the remedy.

use object_store::Error;

/// For people.
pub(super) fn in_words(error: &Error) -> String {
    let text = error.to_string();
    match status(error, &text) {
        _ if asks_machine(&text) => {
            "nobody says who asks, and this machine has no credentials of its own. Say AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for the mirror alone LARDER_MIRROR_AWS_ACCESS_KEY_ID, …"
                .to_owned()
        }
        // A file that is not there is no error here.
        Some(404) => {
            "there is no such bucket. Make it, or correct --to and the address and region by which it is \
                      reached"
                .to_owned()
        }
        Some(401 | 403) => format!(
            "refused ({}). Say credentials that are right there and permit to list, read, write and delete",
            code(&text).unwrap_or("without a cause")
        ),
        _ => text,
    }
}

/// `object_store` tells the status of an answer to a listing only in words.
fn status(error: &Error, text: &str) -> Option<u16> {
    match error {
        Error::NotFound { .. } => Some(404),
        Error::PermissionDenied { .. } => Some(403),
        Error::Unauthenticated { .. } => Some(401),
        _ => text.split_once("status code: ")?.1.get(..3)?.parse().ok(),
    }
}

/// What an S3 service calls the cause:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
fn code(text: &str) -> Option<&str> {
    Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

/// Whether what failed is asking the machine for its credentials:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
fn asks_machine(text: &str) -> bool {
    ["/latest/api/token", "/latest/meta-data/"].iter().any(|path| text.contains(path))
}
