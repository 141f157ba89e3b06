//! The admin port: `/healthz` (alive), `/readyz` (able to do its job now), `/metrics`. Not for the public.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context as _;
use chickwork_ingress::LISTENS_FOR;
use chickwork_queue::Queue;
use chickwork_queue::spool::Spool;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::figures;
use crate::roles::Readiness;

/// How long a check may take before it counts as failed. `chickwork healthcheck` waits a little longer.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// How long measuring the queue may take: a little longer than a broker that is away is waited for.
const MEASURE_LIMIT: Duration = Duration::from_secs(3);
/// Connections at the same time; a scraper and a prober or two need few.
const MAX_CONNECTIONS: usize = 64;
/// What an admin port listens for, as [`LISTENS_FOR`] tells it; behind it the command of the process.
pub(crate) const ADMIN: &str = "admin";
/// The content type of the Prometheus text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where events are kept: what is measured for `/metrics`.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    pub(crate) queue: Queue,
    pub(crate) spool: Option<Spool>,
}

impl Stores {
    async fn measure(&self) {
        let spool = async {
            if let Some(spool) = &self.spool {
                spool.measure().await;
            }
        };
        tokio::join!(self.queue.measure(), spool);
    }
}

/// The running admin server. It serves until the process ends, so that a probe can see it drain.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    handle: ServerHandle,
}

impl Admin {
    /// Serves, for a process of this command; from now on `/healthz` says that it is alive.
    pub(crate) fn start(
        listen: SocketAddr,
        command: &'static str,
        readiness: Readiness,
        stores: Stores,
        figures: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let readiness = web::Data::new(readiness);
        let stores = web::Data::new(stores);
        let figures = web::Data::new(figures);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(readiness.clone())
                .app_data(stores.clone())
                .app_data(figures.clone())
                .route("/healthz", web::get().to(move || alive(command)))
                .route("/readyz", web::get().to(ready))
                .route("/metrics", web::get().to(metrics))
        })
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .disable_signals()
        .bind(listen)
        .with_context(|| format!("CHICKWORK_ADMIN_LISTEN: cannot listen on {listen}"))?;
        let address = server.addrs().first().copied().unwrap_or(listen);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { address, handle })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving.
    pub(crate) async fn stop(self) {
        self.handle.stop(false).await;
    }
}

async fn alive(command: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((LISTENS_FOR, format!("{ADMIN} {command}")))
        .body("alive\n")
}

async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    match check(&readiness).await {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(reason) => HttpResponse::ServiceUnavailable()
            .insert_header(ContentType::plaintext())
            .body(reason + "\n"),
    }
}

/// A sentence says why the process is not ready.
async fn check(readiness: &Readiness) -> Result<(), String> {
    tokio::time::timeout(CHECK_LIMIT, readiness.check())
        .await
        .unwrap_or_else(|_elapsed| Err(format!("the check took longer than {CHECK_LIMIT:?}")))
}

async fn metrics(
    readiness: web::Data<Readiness>,
    stores: web::Data<Stores>,
    handle: web::Data<PrometheusHandle>,
) -> HttpResponse {
    // Depths are looked up when somebody asks for them; without them the rest is still worth having.
    let measuring = tokio::time::timeout(MEASURE_LIMIT, stores.measure());
    let (_measured, checked) = tokio::join!(measuring, check(&readiness));
    figures::ready(checked.is_ok());
    HttpResponse::Ok()
        .content_type(PROMETHEUS_TEXT)
        .body(handle.render())
}
