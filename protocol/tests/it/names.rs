//! Names of caches.

use larder_protocol::api::CacheName;

#[test]
fn a_pull_requests_cache_has_a_name_that_no_other_can_have() {
    let main: CacheName = "main".parse().unwrap();
    let isolated = CacheName::isolated(&main, 42, 7).unwrap();
    assert_eq!(isolated.as_str(), "main~42-pr-7");
    assert_eq!(isolated.isolation(), Some(("main", "42-pr-7")));
    assert_eq!(main.isolation(), None);
    assert!(CacheName::isolated(&isolated, 42, 7).is_err());
    assert!(CacheName::isolated(&main, 0, 7).is_err());
    assert_eq!("main~18446744073709551615-pr-1".parse::<CacheName>().unwrap().isolation().unwrap().0, "main");
    for wrong in [
        "main~",
        "~42-pr-7",
        "main~42-pr-",
        "main~-pr-7",
        "main~042-pr-7",
        "main~42-pr-07",
        "main~42-pr-+7",
        "main~42-PR-7",
        "main~42-pr-7~1-pr-2",
        "main~42-pr-7-pr-8",
        "main~42-pr-18446744073709551616",
        "api~42-pr-7",
        "main~42-pr-7/x",
    ] {
        assert!(wrong.parse::<CacheName>().is_err(), "{wrong}");
    }
}
