//! axum's SSE with the benchmark's events, on one thread: what a server without Python does.
//!
//! Routes `/axum/models` and `/axum/turn`, the argument is the port.

use std::convert::Infallible;

use axum::extract::Query;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Router, serve};
use futures_util::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Item {
    id: u32,
    name: &'static str,
    price: f64,
    tags: [&'static str; 2],
    ok: bool,
}

const ITEM: Item = Item {
    id: 1,
    name: "Portal Gun that is long enough to be",
    price: 999.99,
    tags: ["a", "b"],
    ok: true,
};

#[derive(Deserialize)]
struct Wanted {
    n: usize,
}

fn item() -> Result<Event, Infallible> {
    Ok(Event::default()
        .json_data(ITEM)
        .expect("the item has a JSON form"))
}

async fn models(
    Query(wanted): Query<Wanted>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(0..wanted.n).map(|_| item()))
}

async fn turn(Query(wanted): Query<Wanted>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(0..wanted.n).then(|_| async {
        tokio::task::yield_now().await;
        item()
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port: u16 = std::env::args()
        .nth(1)
        .and_then(|port| port.parse().ok())
        .expect("the port to listen on");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the port is free");
    let app = Router::new()
        .route("/axum/models", get(models))
        .route("/axum/turn", get(turn));
    serve(listener, app).await.expect("the server runs");
}
