//! What is in a repository: files, and where tarballs are.

use bytes::Bytes;
use http::{StatusCode, header};
use url::{Url, form_urlencoded};

use super::{
    app::Needs,
    github::{Asking, ForgeError, GitHub, Question},
};
use crate::identity::RepositoryName;

impl GitHub {
    /// A file at a commit or ref, of at most so many bytes. `None`: there is no such file, or it is not to be seen.
    ///
    /// # Errors
    /// When GitHub does not answer, or with a larger file.
    pub async fn contents(
        &self,
        repository: &RepositoryName,
        path: &str,
        at: &str,
        most: usize,
    ) -> Result<Option<Bytes>, ForgeError> {
        let path: Vec<String> = path.split('/').map(escaped).collect();
        let page = format!("/repos/{repository}/contents/{}?ref={}", path.join("/"), escaped(at));
        let answer = self.ask_about(repository, Needs::Contents, Question::get(page).raw(most)).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(ForgeError::Status(status)),
        }
    }

    /// Where the tarball of a commit can be fetched, without a credential: of a private repository the URL has a token in
    /// it that is good for minutes, and must not be logged. `None`: it is not to be seen.
    ///
    /// # Errors
    /// When GitHub does not answer.
    pub async fn tarball(&self, repository: &RepositoryName, at: &str) -> Result<Option<Url>, ForgeError> {
        let page = format!("/repos/{repository}/tarball/{}", escaped(at));
        let answer = self.ask_about(repository, Needs::Contents, Question::get(page)).await?;
        match answer.status {
            StatusCode::FOUND => {
                let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                location
                    .and_then(|location| Url::parse(location).ok())
                    .map(Some)
                    .ok_or(ForgeError::Unreadable)
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(ForgeError::Status(status)),
        }
    }

    /// Says once why something in a repository cannot be read, unless everybody sees the repository: then there is no such
    /// thing in it.
    pub(super) async fn tell_if_private(&self, repository: &RepositoryName, why: &ForgeError) {
        let what = format!("{repository} is private: {why}");
        if self.said.has(&what) {
            return;
        }
        let asked = self.ask(&Asking::Nobody, Question::get(format!("/repos/{repository}"))).await;
        let Ok(status) = asked.map(|answer| answer.status) else { return };
        if self.said.is_first(what) && status == StatusCode::NOT_FOUND {
            tracing::warn!(
                %repository, %why,
                "a repository is private or gone, and cannot be read: no inputs of its flake.lock are prefetched"
            );
        }
    }
}

/// As it may stand in a path's part or a query's value.
fn escaped(text: &str) -> String {
    // A blank is "+" in a form, which in a path would be itself.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
