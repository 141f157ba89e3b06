//! How a story becomes a test: told on a runtime of its own, once on each kind of queue that it is
//! about.

/// Tells a story on a runtime of its own.
pub fn tell(story: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(story)
}

/// Makes a test of every story. Those under `both` take a [`Kind`](crate::stage::Kind) and are
/// told on each, those under `rabbitmq` need a broker, and those under `once` are told as they
/// are. Stories are named by their chapter, a module of the file that says this.
#[macro_export]
macro_rules! stories {
    (
        both: [$($chapter:ident: [$($story:ident),* $(,)?]),* $(,)?],
        rabbitmq: [$($broker_chapter:ident: [$($broker_story:ident),* $(,)?]),* $(,)?],
        once: [$($single_chapter:ident: [$($single_story:ident),* $(,)?]),* $(,)?] $(,)?
    ) => {
        mod sqlite {
            $($(#[test] fn $story() -> anyhow::Result<()> {
                $crate::story::tell(super::$chapter::$story($crate::stage::Kind::Sqlite))
            })*)*
        }
        mod rabbitmq {
            $($(#[test] fn $story() -> anyhow::Result<()> {
                $crate::story::tell(super::$chapter::$story($crate::stage::Kind::Rabbitmq))
            })*)*
            $($(#[test] fn $broker_story() -> anyhow::Result<()> {
                $crate::story::tell(super::$broker_chapter::$broker_story())
            })*)*
        }
        mod once {
            $($(#[test] fn $single_story() -> anyhow::Result<()> {
                $crate::story::tell(super::$single_chapter::$single_story())
            })*)*
        }
    };
}
