//! The promises of the queue (see `docs/architecture.md`), as one list of stories that is told to
//! both back ends. A new promise goes into [`stories`] first, one about looking at the queue into
//! [`inspection`] or [`events`]; what only a broker or a file can do to us is in [`broker`] and [`file`], how a file
//! stands in for a broker in [`spool`].

mod broker;
mod events;
mod file;
mod forgetting;
mod inspection;
mod rounds;
mod spool;
mod stories;

use chickwork_tests::stage::{Kind, Stage};

/// Tells a story on a stage, on a runtime of its own.
fn tell<F: Future<Output = anyhow::Result<()>>>(
    stage: anyhow::Result<Stage>,
    story: impl FnOnce(Stage) -> F,
) -> anyhow::Result<()> {
    let stage = stage?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(story(stage))
}

macro_rules! conformance {
    ($($from:ident { shared: [$($shared:ident),* $(,)?], alone: [$($alone:ident),* $(,)?] $(,)? })*) => {
        mod sqlite {
            use super::*;
            $($(#[test] fn $shared() -> anyhow::Result<()> { tell(Stage::new(Kind::Sqlite), $from::$shared) })*)*
            $($(#[test] fn $alone() -> anyhow::Result<()> { tell(Stage::alone(Kind::Sqlite), $from::$alone) })*)*
        }
        mod rabbitmq {
            use super::*;
            $($(#[test] fn $shared() -> anyhow::Result<()> { tell(Stage::new(Kind::Rabbitmq), $from::$shared) })*)*
            $($(#[test] fn $alone() -> anyhow::Result<()> { tell(Stage::alone(Kind::Rabbitmq), $from::$alone) })*)*
        }
    };
}

conformance! {
    stories {
        shared: [
            an_event_is_claimed_as_it_was_published,
            an_event_survives_the_process_that_published_it,
            a_hundred_jobs_go_to_two_processes_once_each,
            a_settled_claim_is_gone,
            an_unsettled_claim_comes_back,
            the_claims_of_a_killed_process_come_back,
            later_is_not_before_its_time,
            what_is_put_off_holds_nobody_up,
            a_failed_try_is_counted_and_a_pause_is_not,
            a_job_given_back_is_there_at_once_and_nothing_is_counted,
            the_next_step_is_stored_and_the_event_is_gone,
            a_job_that_comes_back_a_third_time_is_put_off,
            a_job_that_died_ten_times_is_buried_as_poison,
            a_settled_job_is_no_suspect_any_more,
            being_put_off_without_a_try_forgets_no_deaths,
            many_publishes_at_once_on_a_fresh_handle_are_all_stored,
            a_buried_job_is_listed_with_its_cause_and_listing_changes_nothing,
            a_retried_dead_letter_is_worked_on_again_and_aged_from_now,
            a_retried_reply_goes_back_to_be_posted,
            a_dropped_dead_letter_is_gone,
            what_was_said_is_done_with_the_dead_letters_that_were_named_and_with_no_others,
            a_letter_that_is_buried_again_meanwhile_is_not_taken_twice,
            a_letter_that_somebody_else_took_does_not_come,
            a_taking_that_is_broken_off_loses_nothing,
        that_a_reply_is_to_be_posted_again_is_known_before_it_is_back,
            a_dead_letter_shows_what_it_holds,
            a_thousand_dead_letters_are_read_oldest_first_and_taken_in_one_go,
            what_is_no_event_is_kept_as_a_dead_letter,
            the_archive_holds_every_event_byte_for_byte,
            an_event_that_is_not_answered_is_archived_with_its_reason,
            outcomes_are_read_in_order_by_every_process,
            an_intent_is_read_before_a_mark_that_is_set_after_it,
            one_process_at_a_time_claims_replies,
            a_killed_consumer_hands_over,
            a_frozen_consumer_hands_over_and_cannot_announce_a_post_when_it_wakes,
            a_stopped_consumer_hands_over_at_once_and_announces_no_post,
            a_reply_of_a_newer_release_waits_and_in_the_end_is_buried_as_newer,
            a_reply_that_cannot_be_read_is_buried_as_malformed,
            two_namespaces_do_not_see_each_other,
        ],
        alone: [
            everything_survives_a_crash_of_the_store,
            claims_go_on_after_a_crash_of_the_store,
        ]
    }
    inspection {
        shared: [
            a_process_is_known_by_its_newest_report_and_forgotten_when_it_sends_none,
            what_waits_is_counted_where_it_waits,
            an_event_is_unfinished_until_it_has_come_to_an_end,
            an_event_without_end_is_unfinished_from_its_own_time_on,
            an_end_is_read_before_a_mark_that_is_set_after_it,
            an_audit_tells_where_every_event_has_got_to,
            outcomes_are_read_to_the_end_and_not_beyond,
            the_last_event_is_the_newest_of_the_archive,
            what_was_archived_late_hides_nothing_that_is_younger,
            what_is_written_all_the_time_is_read_to_an_end,
            a_queue_is_examined_without_a_trace,
        ],
        alone: [],
    }
    rounds {
        shared: [
            the_outcomes_tell_how_each_event_was_received,
            a_round_goes_with_its_event_through_every_step,
            a_round_that_was_given_up_is_taken_up_again_as_the_same,
            that_an_event_is_back_is_known_before_it_is,
            what_comes_from_elsewhere_is_taken_in_with_a_doubt_about_its_reply,
            what_is_ended_as_a_duplicate_is_explained,
            a_round_is_told_until_it_has_a_reply,
        ],
        alone: [a_round_outlasts_a_crash_of_the_store],
    }
    forgetting {
        shared: [
            what_was_archived_for_its_time_is_forgotten_although_nothing_new_comes,
            what_is_not_archived_for_long_is_still_there,
        ],
        alone: [],
    }
    events {
        shared: [
            events_are_listed_newest_first_and_no_more_than_asked_for,
            events_are_chosen_by_each_thing_that_is_known_of_them,
            where_an_event_stands_is_told,
            what_waits_nowhere_is_unexplained,
            an_event_that_was_archived_twice_is_listed_once,
            a_story_is_told_from_the_first_line_to_the_last,
            an_event_of_an_ingress_whose_clock_is_wrong_has_its_story,
            what_a_person_did_about_an_event_much_later_is_told,
            a_story_is_read_to_its_end_and_little_further,
            the_stories_of_a_message_are_those_of_every_event_about_it,
            the_stories_of_a_message_begin_with_its_first_event_whatever_the_clocks_say,
            a_story_is_told_of_what_is_not_in_the_archive,
            events_are_listed_to_an_end_while_others_write,
            more_events_than_are_held_at_once_are_listed_in_order,
        ],
        alone: [
            events_and_stories_are_read_after_a_crash_of_the_store,
        ],
    }
}
