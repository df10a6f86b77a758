//! The service, as its client sees it.
