//! Brings what can be read of a damaged spool into the one that is in use, beside the work. How far that
//! has come is in the damaged file's name: it is `.saving-TIME` until all of it has been tried, however
//! many processes that takes, and `.set-aside-TIME` from then on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::place::{self, Unsaved};
use super::{Becomes, Shared, Stage};
use crate::event::Event;
use crate::sqlite::{Put, SpoolFile, is_passing, salvage};

/// How often it is tried again to store what the spool has not taken.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Saves what is to be saved whenever a file has been opened, until the spool stops.
pub(super) async fn rescue(shared: Arc<Shared>) {
    let mut files = shared.file.subscribe();
    'files: loop {
        let Some(file) = shared.opened(&mut files).await else {
            return;
        };
        for damaged in place::unsaved(&shared.path).await {
            let is_the_end = tokio::select! {
                () = save(&shared, &file, &damaged) => continue,
                _ = files.changed() => false,
                () = shared.reached(Stage::Draining) => true,
            };
            log::warn!(
                "the rescue of the damaged spool {} is broken off; whoever opens the spool next begins it anew",
                damaged.file.display()
            );
            if is_the_end {
                return;
            }
            continue 'files;
        }
        // It is closed with the last handle.
        drop(file);
        tokio::select! {
            _ = files.changed() => {}
            () = shared.reached(Stage::Draining) => return,
        }
    }
}

/// Brings one damaged spool into the new one, under the same ids: an event that the broker had already
/// is answered once.
async fn save(shared: &Shared, file: &SpoolFile, damaged: &Unsaved) {
    let shown = damaged.file.display();
    let (mut saved, mut lost) = (0, 0);
    let mut unreadable = None;
    let mut salvaged = salvage(&damaged.file);
    while let Some(page) = salvaged.recv().await {
        match page {
            Ok(page) => {
                let all = page.len();
                let events: Vec<_> = page.into_iter().filter_map(|row| row.event).collect();
                lost += all - events.len();
                saved += events.len();
                put(shared, file, &damaged.file, events).await;
            }
            Err(error) if is_passing(&error) => {
                log::error!(
                    "the damaged spool {shown} cannot be read just now ({error}); whoever opens the spool next tries again"
                );
                return;
            }
            Err(error) => unreadable = Some(error),
        }
    }
    let aside = match damaged.clone().saved().await {
        Ok(aside) => aside,
        Err(error) => {
            log::error!(
                "the damaged spool {shown} cannot be renamed, and so is read again next time: {error}"
            );
            damaged.file.clone()
        }
    };
    let aside = aside.display();
    match unreadable {
        None => log::error!(
            "of the damaged spool {saved} events could be saved, {lost} could not; it is now {aside}: keep it until somebody has looked into it"
        ),
        Some(error) => log::error!(
            "of the damaged spool {saved} events could be saved, the rest cannot be read ({error}), and how many they were is not known. It is now {aside}: keep it until somebody has looked into it"
        ),
    }
}

/// Stores all of these, however often it has to be tried: there may be room later.
async fn put(shared: &Shared, file: &SpoolFile, damaged: &Path, mut events: Vec<(Event, Becomes)>) {
    let mut told = false;
    loop {
        let puts = events
            .iter()
            .map(|(event, becomes)| file.put(event, becomes));
        let puts = join_all(puts).await;
        let mut why = None;
        let mut puts = puts.into_iter();
        events.retain(|_| match puts.next() {
            Some(Ok(Put::Stored { .. })) => false,
            Some(put) => {
                // One that is damaged itself is let go of, which ends this.
                let put = shared.or_suspect(file, put);
                why = Some(put.map_or_else(|error| error.to_string(), |_| "it is full".to_owned()));
                true
            }
            None => true,
        });
        let Some(why) = why else { return };
        if !std::mem::replace(&mut told, true) {
            log::warn!(
                "the rescue of the damaged spool {} waits, as the new one takes no more ({why})",
                damaged.display()
            );
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
