//! A private cache, and those who have nothing to show for it: they learn neither what it holds nor that it is there.

use larder_protocol::api::{Permission, PinRequest, Upstream};
use larder_service::{
    Service,
    config::{CacheConfig, cache::CheckedUpstream},
    trust::people,
};
use reqwest::{Method, RequestBuilder};
use tower::ServiceExt as _;

use crate::{
    nar::{TestNar, path},
    private::{Pusher, all, token, world},
    upstream::UpstreamCache,
    world::World,
};

#[tokio::test]
async fn to_a_stranger_it_is_the_same_whatever_it_holds_and_whether_it_is() {
    let (world, nar) = world().await;
    let narinfo = {
        let url = format!("{}/main/{}.narinfo", world.url, nar.info.path.hash());
        let text =
            world.client.get(url).bearer_auth(&world.token).send().await.unwrap().text().await.unwrap();
        larder_protocol::narinfo::NarInfo::parse(&text).unwrap()
    };
    let pin = PinRequest { path: nar.info.path.clone(), lifetime: None, keep: 1 };
    let pins = format!("{}/api/v1/caches/main/pins/web", world.url);
    let pinner = token(&world, "pinner", "main", &[Permission::Pin, Permission::Read]).await;
    assert_eq!(all(world.client.put(pins).bearer_auth(&pinner).json(&pin)).await.0, 204);
    let push_only = token(&world, "push-only", "main", &[Permission::Push]).await;
    let elsewhere = token(&world, "elsewhere", "open", &[Permission::Read, Permission::Admin]).await;
    let revoked = token(&world, "revoked", "main", &[Permission::Read]).await;
    let Service { metadata, clock, .. } = &*world.service;
    assert!(people::revoke_token(metadata, clock, "revoked").await.unwrap());
    type Showing = fn(RequestBuilder, &str) -> RequestBuilder;
    let showings: [(Showing, &str); 8] = [
        (|request, _| request, ""),
        (|request, token| request.bearer_auth(token), &push_only),
        (|request, token| request.basic_auth("any", Some(token)), &elsewhere),
        (|request, token| request.bearer_auth(token), &revoked),
        (|request, token| request.basic_auth("any", Some(token)), &revoked),
        (|request, token| request.bearer_auth(token), "larder_t_no"),
        (|request, token| request.basic_auth(token, None::<&str>), &world.token),
        (|request, token| request.header("Authorization", token), "Basic %%%"),
    ];
    let (there, absent) = (nar.info.path.hash(), path(9, "absent").hash());
    for (show, shown) in showings {
        for page in [
            "/NAME/nix-cache-info".to_owned(),
            format!("/NAME/{there}.narinfo"),
            format!("/NAME/{absent}.narinfo"),
            format!("/NAME/{}", narinfo.url),
            format!("/NAME/{}", narinfo.url.replace("nar/", "nar/0")),
            "/NAME/pins/web".to_owned(),
            "/NAME/pins/none".to_owned(),
            "/NAME~42-pr-7/nix-cache-info".to_owned(),
            "/api/v1/caches/NAME".to_owned(),
            "/api/v1/caches/NAME~42-pr-7".to_owned(),
            format!("/api/v1/caches/NAME/paths/{there}"),
            format!("/api/v1/caches/NAME/paths/{absent}"),
            format!("/api/v1/caches/NAME/paths/{there}/statement"),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let ask = |cache: &str| {
                    let url = format!("{}{}", world.url, page.replace("NAME", cache));
                    all(show(world.client.request(method.clone(), url).header("Range", "bytes=0-1"), shown))
                };
                let (private, none) = (ask("main").await, ask("nowhere").await);
                assert_eq!(private.0, 404, "{page}");
                assert_eq!(private, none, "{page}");
            }
        }
    }
    // What changes a cache is refused, and nothing is told by how.
    for token in ["", &elsewhere, &revoked] {
        for (method, page) in [
            (Method::POST, "pushes"),
            (Method::POST, "pushes/0123456789abcdef0123456789abcdef/missing-chunks"),
            (Method::POST, "pushes/0123456789abcdef0123456789abcdef/commit"),
            (Method::POST, "manifests"),
            (Method::GET, "pins"),
            (Method::PUT, "pins/web"),
            (Method::DELETE, "pins/web"),
        ] {
            let ask = async |cache: &str| {
                let url = format!("{}/api/v1/caches/{cache}/{page}", world.url);
                let request = world.client.request(method.clone(), url).bearer_auth(token).json(&pin);
                let (status, headers, text) = all(request).await;
                let headers: Vec<_> =
                    headers.into_iter().filter(|(name, _)| name != "content-length").collect();
                (status, headers, text.replace(cache, "NAME"))
            };
            let (private, none) = (ask("main").await, ask("nowhere").await);
            assert!(matches!(private.0, 401 | 403), "{page}: {private:?}");
            assert_eq!(private, none, "{page}");
        }
    }
    world.end().await;
}

/// A look-up in a database that is gone would be tried again for five seconds, by a clock that stands still otherwise.
#[tokio::test]
async fn nothing_is_looked_up_for_a_stranger() {
    let (world, nar) = world().await;
    let token = token(&world, "open", "open", &[Permission::Push, Permission::Read]).await;
    let open = Pusher { world: &world, cache: "open", token };
    let public = TestNar::new(path(4, "public"), b"known to everybody", &[]);
    open.push(&public).await;
    world.service.metadata.close().await;
    tokio::time::pause();
    // Of what a private cache has, nothing is known where public ones are asked either.
    for (cache, nar, waits) in [("main", &nar, false), ("open", &public, true), ("open", &nar, false)] {
        let page = format!("/{cache}/{}.narinfo", nar.info.path.hash());
        let request = http::Request::get(page).body(axum::body::Body::empty()).unwrap();
        let began = tokio::time::Instant::now();
        let answer = larder_service::router(world.service.clone()).oneshot(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), began.elapsed().as_secs() >= 5), (404, waits), "{cache}");
    }
    // Nor where anything else of it is asked for, or of a pull request's cache beside it.
    let hash = nar.info.path.hash();
    let zst = format!("nar/{}-{hash}.nar.zst", nar.info.nar_hash.base32());
    for cache in ["main", "main~42-pr-7"] {
        for page in [
            format!("/{cache}/nix-cache-info"),
            format!("/{cache}/{hash}.narinfo"),
            format!("/{cache}/{zst}"),
            format!("/{cache}/pins/web"),
            format!("/api/v1/caches/{cache}"),
            format!("/api/v1/caches/{cache}/paths/{hash}"),
            format!("/api/v1/caches/{cache}/paths/{hash}/statement"),
        ] {
            let request = http::Request::get(&page).body(axum::body::Body::empty()).unwrap();
            let began = tokio::time::Instant::now();
            let answer = larder_service::router(world.service.clone()).oneshot(request).await.unwrap();
            assert_eq!((answer.status().as_u16(), began.elapsed().as_secs()), (404, 0), "{page}");
        }
    }
}

/// Neither how soon the service answers nor which references it takes tells what was asked for a private cache.
#[tokio::test]
async fn what_an_upstream_said_is_remembered_for_each_private_cache_alone() {
    let upstream = UpstreamCache::start().await;
    let asked = Upstream { url: upstream.url.clone(), public_keys: vec![upstream.key.public_key()] };
    let upstreams = vec![CheckedUpstream::new(asked)];
    let world = World::with(|config| {
        config.caches[0].public = false;
        config.caches[0].upstreams.clone_from(&upstreams);
        let name = "open".parse().unwrap();
        config.caches.push(CacheConfig { name, upstreams, ..CacheConfig::default() });
    })
    .await;
    let (libc, absent) =
        (TestNar::new(path(1, "libc"), b"libc", &[]), TestNar::new(path(2, "own"), b"own", &[]));
    upstream.has(&libc, &upstream.key);
    assert_eq!(world.open(&[&libc, &absent]).await.upstream, [libc.info.path.hash()]);
    assert_eq!(upstream.asked(), 2);
    world.open(&[&libc, &absent]).await;
    assert_eq!(upstream.asked(), 0, "it is remembered");

    let open = token(&world, "open", "open", &[Permission::Push, Permission::Read]).await;
    let blind = token(&world, "blind", "main", &[Permission::Push]).await;
    for (cache, token) in [("open", open), ("main", blind)] {
        let pusher = Pusher { world: &world, cache, token };
        for nar in [&libc, &absent] {
            pusher.open(nar).await;
            assert_eq!(upstream.asked(), 1, "it was asked for somebody else before");
        }
        // A reference is good if this push, or this cache, has asked for it.
        let user = TestNar::new(path(3, "user"), b"user", &[&libc.info.path]);
        let opened = pusher.open(&user).await;
        pusher.upload(&opened, &user).await;
        pusher.recipes(&opened, &user).await;
        assert_eq!(pusher.commit(&opened).await.status(), if cache == "open" { 200 } else { 422 });
        assert_eq!(upstream.asked(), 1);
    }
    world.end().await;
}
