//! The fault suite: a real bot under continuous traffic while brokers, processes, services and
//! clocks fail. At the end of each story the sums must match: every acknowledged event is replied
//! to once, ignored for a reason, or given up with a cause.

mod broker;
mod clocks;
mod crash_points;
mod disk;
mod limits;
mod poison;
mod processes;
mod services;
mod stops;

chickwork_tests::stories! {
    both: [
        poison: [what_kills_its_worker_is_buried_and_its_neighbours_are_answered],
        processes: [
            processes_are_killed_at_random,
            processes_are_restarted_at_random,
            processes_stand_still_at_random,
            everything_is_killed_at_once_again_and_again,
        ],
        services: [
            simsimi_fails_in_every_way,
            simsimi_is_slow_beyond_every_limit,
            simsimi_refuses_and_everything_waits,
            chatwork_fails_in_every_way,
            chatwork_is_slow_beyond_every_limit,
            chatwork_refuses_in_storms,
        ],
        clocks: [events_from_the_future_and_from_long_ago_have_their_end],
        limits: [a_hundred_replies_keep_to_the_limits_across_a_kill],
        stops: [
            posting_goes_on_when_the_one_that_posts_is_killed,
            posting_goes_on_when_the_one_that_posts_is_stopped,
            posting_goes_on_when_the_one_that_posts_freezes_and_thaws,
            a_rolling_restart_is_noticed_by_nobody,
            everything_stops_at_once_and_goes_on_as_if_nothing_had_been,
            what_is_interrupted_is_given_back_and_nothing_is_counted,
            what_a_newer_release_stored_is_left_to_it,
            a_stopping_ingress_answers_what_has_begun_and_refuses_the_rest,
            who_never_finishes_a_request_does_not_hold_up_a_stop,
        ],
    ],
    rabbitmq: [
        crash_points: [
            killed_at_each_effect_nothing_is_lost_or_said_twice,
            killed_at_any_word_nothing_is_lost_or_said_twice,
            killed_at_any_commit_of_its_spool_nothing_is_lost_or_said_twice,
        ],
        disk: [without_broker_and_without_room_nothing_is_acknowledged],
        broker: [
            a_broker_is_killed_and_nobody_notices,
            a_broker_is_away_for_long_and_nobody_notices,
            a_broker_is_restarted_and_nobody_notices,
            a_broker_without_memory_holds_up_no_webhook,
            a_frozen_broker_holds_up_no_webhook,
            closed_connections_are_opened_again,
            what_lay_in_a_deleted_queue_is_found_by_the_audit,
            a_broker_that_comes_late_finds_everything_waiting,
        ],
        stops: [
            who_is_stopped_without_a_broker_ends_and_loses_nothing,
            who_is_stopped_beside_a_silent_broker_ends_and_loses_nothing,
        ],
    ],
    once: [
        crash_points: [
            killed_at_any_commit_nothing_is_lost_or_said_twice,
            killed_while_a_service_has_the_call_nothing_is_lost_or_said_twice,
        ],
        disk: [
            on_a_full_disk_nothing_is_acknowledged_and_later_all_goes_on,
            on_a_broken_disk_nothing_is_acknowledged_and_later_all_goes_on,
            a_worker_without_room_says_nothing_twice_and_loses_nothing,
        ],
    ],
}
