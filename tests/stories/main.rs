//! End-to-end stories: the real binary in real processes, on both kinds of queue, in a world that
//! behaves and misbehaves as Chatwork, SimSimi, the network and the operator's machine do. What is
//! asserted is what a person in the room would see, and what it cost.

mod again;
mod answered;
mod audit;
mod broker_users;
mod chatwork;
mod commands;
mod dead;
mod doctor;
mod events;
mod figures;
mod hostile;
mod ingress;
mod interrupted;
mod many;
mod not_answered;
mod observability;
mod purge;
mod quiet;
mod recover;
mod rehearsal;
mod replay;
mod simsimi;
mod spool;
mod status;

chickwork_tests::stories! {
    both: [
        answered: [
            a_mention_is_answered_in_its_room_with_simsimis_words,
            every_way_to_address_the_bot_is_answered,
            what_was_said_is_asked_without_what_surrounds_it,
            an_answer_cannot_call_everybody,
            who_cannot_be_understood_gets_the_friendly_line,
        ],
        not_answered: [
            what_is_not_meant_for_the_bot_is_ignored_with_its_reason,
            a_flood_is_answered_up_to_the_limit,
            without_a_fallback_line_the_bot_stays_silent,
        ],
        ingress: [
            an_authentic_webhook_is_taken_however_it_is_signed,
            what_is_not_authentic_is_refused_and_not_stored,
            what_is_authentic_and_not_understood_is_kept,
            old_and_new_token_both_work_while_rotating,
            slow_clients_keep_nobody_waiting,
        ],
        simsimi: [
            a_failing_simsimi_is_asked_again,
            a_simsimi_out_of_reach_is_tried_again,
            what_simsimi_never_answers_is_buried_with_the_last_error,
            an_old_mention_expires_unasked,
            a_wrong_key_is_found_out_at_the_first_question,
        ],
        chatwork: [
            a_doubtful_post_is_looked_for_and_never_said_twice,
            a_look_that_fails_is_repeated,
            what_nobody_can_tell_is_left_to_a_person,
            a_refused_reply_is_buried_with_chatworks_words,
            a_chatwork_out_of_reach_is_tried_again,
            a_taken_post_is_done_whatever_chatwork_says_about_it,
            posting_pauses_when_chatwork_does_not_know_the_token,
            after_the_accounts_limit_everything_is_posted,
            a_rooms_limit_holds_up_that_room_alone,
            within_its_limits_the_bot_is_never_refused,
        ],
        interrupted: [
            killed_right_after_the_post_it_is_not_posted_again,
            killed_right_before_the_post_it_is_posted_after_all,
            who_is_frozen_in_mid_post_does_not_post_when_it_wakes,
            a_message_told_many_times_is_answered_once,
            a_stopped_process_finishes_what_it_holds,
            the_second_signal_ends_a_process_at_once,
            what_was_acknowledged_survives_a_kill_of_everything,
            mentions_wait_for_workers,
        ],
        again: [
            who_asks_for_another_answer_gets_one_more,
            killed_right_after_a_further_answer_it_is_not_said_again,
            a_doubtful_further_answer_is_looked_for_beside_the_old_one,
            a_further_answer_that_was_lost_is_given_when_the_audit_puts_it_back,
            an_event_that_met_everything_tells_precisely_that,
        ],
        events: [
            an_event_that_met_three_faults_tells_exactly_that_story,
            events_are_listed_and_chosen_by_what_they_are,
            what_nobody_has_heard_of_is_told_with_what_to_try,
            all_events_about_a_message_are_shown,
            what_is_exported_is_what_came_in,
            who_has_seen_enough_may_go,
        ],
        figures: [the_figures_add_up_to_what_happened],
        audit: [
            the_audit_adds_up_to_what_the_world_saw,
            what_was_taken_out_by_hand_is_listed_and_put_back,
            what_is_put_back_too_often_is_answered_once,
            putting_back_can_be_stopped_and_says_how_far_it_came,
            an_audit_without_an_archive_says_what_it_does_not_know,
            a_reply_that_was_said_twice_is_told,
            a_worker_that_is_killed_leaves_nothing_unexplained,
        ],
        dead: [
            every_cause_is_listed_shown_and_retried,
            who_has_looked_has_an_uncertain_reply_posted,
            filters_choose_exactly_what_they_say,
            without_consent_nothing_is_changed,
            what_is_dropped_is_gone_and_its_reason_is_kept,
            a_long_run_can_be_stopped_and_says_how_far_it_came,
            a_run_that_is_killed_loses_nothing,
            who_has_read_enough_may_go,
        ],
        hostile: [
            strange_webhooks_are_counted_and_the_bot_goes_on,
            whatever_simsimi_says_the_room_hears_one_clean_reply,
            whatever_chatwork_answers_to_a_post_the_next_one_goes_on,
            garbage_among_the_outcomes_is_passed_over,
        ],
        doctor: [
            the_doctor_finds_nothing_where_nothing_is_wrong,
            the_doctor_visits_a_bot_at_work,
        ],
        recover: [
            precisely_the_mentions_that_were_missed_are_found_and_answered_once,
            a_mention_that_was_edited_in_is_missed_though_the_message_had_come_in,
            who_asked_for_it_is_no_flood,
            two_who_recover_at_once_have_each_mention_answered_once,
            what_is_too_old_is_left_unless_its_age_is_ignored,
            what_cannot_be_seen_is_said,
            what_came_in_and_has_no_end_is_not_missed_but_said,
            no_more_is_read_than_the_rate_limit_keeps_for_it,
            it_can_be_stopped_and_says_how_far_it_came,
        ],
        rehearsal: [
            a_change_of_the_bot_is_tried_on_what_was_said,
            a_shadow_asks_and_says_nothing,
        ],
        replay: [
            one_replay_over_everything_has_each_answered_once,
            a_replay_that_is_stopped_goes_on_where_it_was,
            a_replay_that_is_killed_loses_nothing,
            two_replays_at_once_have_each_answered_once,
            an_exported_file_is_received_by_an_empty_deployment,
            what_was_heard_is_sent_into_another_ingress,
            what_is_too_old_is_put_back_only_on_demand,
            what_since_leaves_out_is_said,
            what_is_answered_is_answered_again_only_on_demand,
            a_dry_run_tells_what_would_become_of_each,
            why_it_was_replayed_is_kept,
            what_was_recovered_and_waits_is_left_alone,
            what_was_answered_elsewhere_is_not_answered_here,
            the_same_file_twice_is_received_once_whether_or_not_there_is_an_archive,
            every_event_of_a_message_has_an_end_and_costs_nothing_more,
            a_round_that_is_killed_and_begun_once_more_answers_each_once,
        ],
        status: [
            status_tells_in_plain_words_that_the_bot_works,
            status_tells_what_asking_pauses_for,
            status_counts_dead_letters,
            status_tells_that_nobody_works,
        ],
        purge: [
            what_is_kept_of_a_room_is_forgotten_or_said_to_remain,
            what_was_forgotten_is_not_answered_again,
            a_reply_is_forgotten_with_what_it_answers,
        ],
        quiet: [no_log_tells_secrets_or_what_people_said],
        many: [
            a_company_talks_at_once_and_each_is_answered_once,
        ],
    ],
    rabbitmq: [
        hostile: [what_somebody_put_into_the_broker_holds_nobody_up],
        spool: [
            a_broker_that_is_killed_costs_no_webhook,
            a_broker_that_hangs_makes_few_webhooks_wait,
            an_ingress_starts_without_its_broker_and_with_a_spoilt_spool,
            what_waits_survives_its_ingress,
            a_spool_that_is_taken_is_waited_for_and_not_shared,
            without_broker_and_spool_the_ingress_says_503_and_recovers,
            serve_stays_in_service_while_its_spool_takes_everything,
        ],
        dead: [a_wrong_namespace_is_told_and_nothing_is_created],
        audit: [
            what_workers_have_in_hand_is_waiting,
            an_audit_of_a_wrong_namespace_says_so,
        ],
        doctor: [
            what_is_wrong_with_the_broker_is_told_with_its_cure,
            what_is_wrong_with_the_spool_is_told_with_its_cure,
            what_waits_in_a_spool_is_a_note,
        ],
        status: [
            status_tells_what_waits_in_a_spool,
            status_says_when_nobody_uses_this_namespace,
            status_says_that_the_broker_takes_no_messages,
            what_may_not_be_seen_is_not_made_up,
        ],
        observability: [a_scrape_tells_who_is_ready],
        events: [what_waits_in_a_spool_is_listed],
        replay: [
            a_replay_whose_broker_goes_away_says_so_and_goes_on,
            what_a_broker_has_lost_does_not_hide_behind_what_was_put_back,
        ],
        recover: [a_wrong_namespace_recovers_nothing],
        broker_users: [
            a_bot_and_its_broker_need_nobody_but_the_users_of_the_roles,
            a_broker_imports_its_definitions_again_when_they_have_changed,
            an_operator_needs_nobody_but_the_operators_user,
            what_came_in_is_shown_replayed_recovered_and_forgotten_by_the_operators_user,
            no_user_of_a_role_may_do_more_than_the_role_needs,
            who_lacks_a_right_is_told_which,
        ],
    ],
    once: [
        commands: [
            dev_shows_a_mention_and_its_reply_and_leaves_nothing,
            dev_talks_until_the_input_ends,
            dev_tells_how_a_lost_answer_is_looked_for_and_found,
            dev_breaks_and_heals_on_command,
            mistakes_in_the_settings_are_told_all_at_once,
            healthcheck_tells_whether_the_process_is_ready,
            send_posts_a_signed_webhook_and_prints_the_status,
            the_sandbox_runs_alone_and_can_be_talked_to,
            what_topology_prints_is_what_a_managed_broker_needs,
        ],
        dead: [a_queue_file_that_is_not_there_is_named_and_not_created],
        purge: [what_waits_to_be_answered_is_left_and_said],
        audit: [
            an_audit_of_nothing_names_what_is_not_there,
            nobody_but_an_ingress_writes_into_a_spool,
        ],
        doctor: [
            what_is_wrong_is_told_with_its_cure,
            a_wrong_clock_is_found_by_chatworks,
            what_somebody_should_know_is_a_note,
            the_doctor_speaks_json,
            a_role_is_asked_for_its_own_settings_only,
        ],
        ingress: [a_token_that_everybody_knows_is_warned_of],
        rehearsal: [
            what_an_older_release_exported_is_played,
            a_line_that_is_no_event_is_named,
            what_stands_behind_its_tag_is_the_bots_name,
            a_shadow_without_a_key_says_what_it_needs,
            a_long_talk_is_played_in_little_memory,
        ],
        recover: [without_a_queue_nothing_is_read],
        status: [status_says_when_there_is_nothing],
        observability: [
            every_figure_that_is_watched_exists_and_every_figure_is_explained,
            the_dashboard_can_be_read,
            every_alert_has_its_test,
            what_others_have_is_not_taken_for_ours,
        ],
        hostile: [
            floods_take_little_memory_and_keep_nobody_waiting,
            an_unusable_queue_file_is_named_and_left_alone,
        ],
        // Pauses take a minute.
        simsimi: [asking_pauses_when_simsimi_does_not_want_us],
    ],
}
