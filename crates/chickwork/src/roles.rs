//! The life of a process that serves: open the queue, start its roles, wait, drain, close. Shared by
//! `ingress`, `worker`, `serve` and `dev`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_clients::chatwork::{self, Chatwork};
use chickwork_clients::simsimi::{self, SimSimi};
use chickwork_ingress::Ingress;
use chickwork_queue::event::BotName;
use chickwork_queue::spool::{Spool, SpoolSettings};
use chickwork_queue::{Location, Publisher, Queue};
use chickwork_worker::Worker;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Stores};
use crate::figures;
use crate::reporting::{Reporting, Sources};
use crate::settings::parse::Rate;
use crate::settings::{IngressSettings, ProcessSettings, WorkerSettings};
use crate::shutdown::Shutdown;

/// How long the queue may take to write its last records and close.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How long after the deadline whatever was held may take to be given back. A process that is not
/// done by then ends anyway; what it held comes back by itself.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(5);
const _: () = assert!(Spool::LEAVES_WITHIN.as_millis() < GIVE_BACK_LIMIT.as_millis());

/// What this process is to do.
#[derive(Debug, Clone)]
pub(crate) struct RolesSettings {
    pub(crate) process: ProcessSettings,
    pub(crate) ingress: Option<IngressSettings>,
    pub(crate) worker: Option<WorkerSettings>,
}

/// A process at work.
#[derive(Debug)]
pub(crate) struct Roles {
    queue: Queue,
    spool: Option<Spool>,
    admin: Admin,
    ingress: Option<Ingress>,
    worker: Option<Worker>,
    reporting: Reporting,
    /// Where webhooks are taken.
    forgetting: Option<JoinHandle<()>>,
    shutdown: Shutdown,
}

/// Whether the process can do its job now; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    queue: Queue,
    publisher: Publisher,
    ingress: Option<chickwork_ingress::Readiness>,
    worker: Option<chickwork_worker::Readiness>,
    shutdown: Shutdown,
}

impl Readiness {
    /// A sentence says why not.
    ///
    /// All roles count. Whether webhooks are to be sent here is another question, which the ingress
    /// answers on its own port: what a worker beside it cannot do now waits for it.
    pub(crate) async fn check(&self) -> Result<(), String> {
        self.check_roles()?;
        let checked = match &self.ingress {
            // Who takes events needs a place for them.
            Some(_) => self.publisher.check().await,
            None => self.queue.check().await,
        };
        checked.map_err(|error| error.to_string())
    }

    /// Whether each role can do its part as far as the process itself knows, without asking the queue.
    pub(crate) fn check_roles(&self) -> Result<(), String> {
        if self.shutdown.is_requested() {
            return Err("the process is stopping".to_owned());
        }
        if let Some(ingress) = &self.ingress {
            ingress.check()?;
        }
        if let Some(worker) = &self.worker {
            worker.check()?;
        }
        Ok(())
    }

    /// Whether the process has been asked to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown.is_requested()
    }
}

/// Does it all: from opening the queue to the end of the process.
pub(crate) async fn run(settings: RolesSettings) -> anyhow::Result<()> {
    let (_trigger, shutdown) =
        Shutdown::on_signals(settings.process.drain).context("cannot wait for signals")?;
    let Some(mut roles) = Roles::start(settings, shutdown).await? else {
        log::info!("stopped");
        return Ok(());
    };
    let ended = roles.until_stopped().await;
    roles.stop().await?;
    ended
}

impl Roles {
    /// Opens the queue and starts what is to be started; nothing if the process is to stop before
    /// that is possible.
    pub(crate) async fn start(
        settings: RolesSettings,
        shutdown: Shutdown,
    ) -> anyhow::Result<Option<Self>> {
        let figures = figures::collect()?;
        let has_broker = matches!(settings.process.queue.location, Location::Amqp(_));
        let queue = Queue::open(settings.process.queue)
            .await
            .context("CHICKWORK_QUEUE cannot be used")?;
        log::info!("queue: {}", queue.describe());
        let spool = settings.ingress.as_ref().and_then(|i| i.spool.clone());
        let spool = match spool {
            Some(settings) if has_broker => {
                let Some(spool) = open_spool(settings, &queue, &shutdown).await? else {
                    queue.close(CLOSE_LIMIT).await;
                    return Ok(None);
                };
                Some(spool)
            }
            _ => None,
        };
        let publisher = match &spool {
            Some(spool) => queue.publisher_with(spool),
            None => queue.publisher(),
        };
        let bot = BotName::default();
        let drain = settings.process.drain;
        let ingress = settings
            .ingress
            .map(|ingress| start_ingress(ingress, &bot, drain, publisher.clone()))
            .transpose()?;
        let worker = settings
            .worker
            .map(|worker| start_worker(worker, &bot, drain, &queue))
            .transpose()?;
        let readiness = Readiness {
            queue: queue.clone(),
            publisher,
            ingress: ingress.as_ref().map(Ingress::readiness),
            worker: worker.as_ref().map(Worker::readiness),
            shutdown: shutdown.clone(),
        };
        let sources = Sources {
            readiness: readiness.clone(),
            ingress: ingress.as_ref().map(Ingress::last_webhook),
            spool: spool.clone(),
            worker: worker.as_ref().map(Worker::view),
        };
        let command = match (&ingress, &worker) {
            (Some(_), None) => "ingress",
            (None, Some(_)) => "worker",
            _ => "serve",
        };
        let admin = Admin::start(
            settings.process.admin_listen,
            command,
            readiness,
            Stores {
                queue: queue.clone(),
                spool: spool.clone(),
            },
            figures,
        )?;
        log::info!("admin port on http://{}", admin.address());
        let reporting = Reporting::start(queue.clone(), sources);
        // Once is enough, and a worker has no right to write to the archive.
        let forgetting = ingress.is_some().then(|| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.keep_forgetting().await })
        });
        Ok(Some(Self {
            queue,
            spool,
            admin,
            ingress,
            worker,
            reporting,
            forgetting,
            shutdown,
        }))
    }

    /// The queue of all roles.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Where webhooks are taken, if they are.
    pub(crate) fn webhook_address(&self) -> Option<SocketAddr> {
        self.ingress.as_ref().map(Ingress::address)
    }

    /// Where the admin port is.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Waits until the process is to stop, or cannot go on.
    pub(crate) async fn until_stopped(&mut self) -> anyhow::Result<()> {
        let ingress = async {
            match &mut self.ingress {
                Some(ingress) => ingress.ended().await,
                None => std::future::pending().await,
            }
        };
        let worker = async {
            match &mut self.worker {
                Some(worker) => worker.ended().await,
                None => std::future::pending().await,
            }
        };
        let forgetting = async {
            match &mut self.forgetting {
                Some(forgetting) => forgetting.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shutdown.requested() => Ok(()),
            ended = forgetting => {
                // Nothing is left to be stopped.
                self.forgetting = None;
                Err(match ended {
                    Ok(()) => anyhow::anyhow!("the forgetting has ended by itself"),
                    Err(error) => anyhow::Error::new(error).context("the forgetting has failed"),
                })
            }
            ended = ingress => {
                // Nothing is left to be stopped.
                self.ingress = None;
                Err(match ended {
                    Ok(()) => anyhow::anyhow!("the ingress has ended by itself"),
                    Err(error) => anyhow::Error::new(error).context("the ingress has failed"),
                })
            }
            broken = worker => Err(anyhow::Error::new(broken).context("the worker has failed")),
        }
    }

    /// Finishes what is in flight, gives back the rest, and closes. That something had to be given
    /// back is a warning, not an error: it is as safe as it was before. An error is only that even
    /// this did not work in time.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self {
            queue,
            spool,
            admin,
            ingress,
            worker,
            reporting,
            forgetting,
            shutdown,
        } = self;
        if let Some(forgetting) = forgetting {
            forgetting.abort();
        }
        let ingress = async {
            if let Some(ingress) = ingress {
                ingress.stop(shutdown.deadline()).await;
            }
            // After it: until its last answer it may need it.
            if let Some(spool) = spool {
                spool.stop(shutdown.deadline()).await;
            }
        };
        let worker = async {
            match worker {
                Some(worker) => worker.stop(shutdown.deadline()).await.clean,
                None => true,
            }
        };
        let too_late = async {
            shutdown.deadline().await;
            tokio::time::sleep(GIVE_BACK_LIMIT).await;
        };
        let stopped = tokio::select! {
            // In time is in time, however late this is looked at.
            biased;
            ((), clean) = async { tokio::join!(ingress, worker) } => Some(clean),
            () = too_late => None,
        };
        reporting.stop().await;
        queue.close(CLOSE_LIMIT).await;
        admin.stop().await;
        match stopped {
            Some(true) => log::info!("stopped"),
            Some(false) => log::warn!("stopped; what was not finished in time has been given back"),
            None => {
                anyhow::bail!("did not stop in time; what was not finished comes back by itself")
            }
        }
        Ok(())
    }
}

/// Waits for a predecessor to let go of it; nothing if this process is to stop meanwhile.
async fn open_spool(
    settings: SpoolSettings,
    queue: &Queue,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Spool>> {
    let spool = tokio::select! {
        opened = Spool::open(settings, queue) => opened.context("CHICKWORK_SPOOL cannot be used")?,
        () = shutdown.requested() => return Ok(None),
    };
    log::info!("spool: {}", spool.describe());
    Ok(Some(spool))
}

fn start_ingress(
    settings: IngressSettings,
    bot: &BotName,
    drain: Duration,
    publisher: Publisher,
) -> anyhow::Result<Ingress> {
    let listen = settings.listen;
    if settings.anybody_signs {
        log::warn!(
            "CHATWORK_WEBHOOK_TOKEN is the sandbox's, which everybody knows: whoever reaches \
             {listen} can sign webhooks with it"
        );
    }
    let settings = chickwork_ingress::Settings {
        listen,
        bots: vec![bot.clone()],
        tokens: settings.tokens,
        linger: settings.linger,
        drain,
    };
    let ingress = Ingress::start(settings, publisher)
        .with_context(|| format!("CHICKWORK_LISTEN: cannot listen on {listen}"))?;
    log::info!("taking webhooks on http://{}/webhook", ingress.address());
    Ok(ingress)
}

fn start_worker(
    settings: WorkerSettings,
    bot: &BotName,
    drain: Duration,
    queue: &Queue,
) -> anyhow::Result<Worker> {
    let policy = settings.policy;
    let simsimi = SimSimi::new(simsimi::Settings {
        url: settings.simsimi_url,
        api_key: settings.simsimi_key.reveal().to_owned(),
        lang: policy.lang.to_owned(),
    })
    .context("SIMSIMI_API_URL or SIMSIMI_API_KEY cannot be used")?;
    let chatwork = Chatwork::new(chatwork::Settings {
        url: settings.chatwork_url,
        api_token: settings.chatwork_token.reveal().to_owned(),
    })
    .context("CHATWORK_API_URL or CHATWORK_API_TOKEN cannot be used")?;
    let settings = chickwork_worker::Settings {
        bot: bot.clone(),
        concurrency: policy.concurrency,
        max_age: policy.max_age,
        account_limit: limit(policy.account_limit),
        room_limit: limit(policy.room_limit),
        sender_limit: limit(policy.sender_limit),
        ignore_accounts: policy.ignore_accounts,
        fallback: policy.fallback,
        drain,
    };
    Ok(Worker::start(settings, queue.clone(), simsimi, chatwork))
}

fn limit(rate: Rate) -> chickwork_worker::Limit {
    chickwork_worker::Limit {
        calls: rate.calls,
        per: rate.per,
    }
}
