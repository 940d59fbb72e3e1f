"""Every claim of the Raft paper and of Ongaro's thesis that swarmpy relies on, and the test that shows it.

"In Search of an Understandable Consensus Algorithm" (extended version): sections 5 to 8. "Consensus: Bridging Theory
and Practice": sections with a T. The claims are in words of our own; the tests stand in the files beside this one.

5.1     a later term is taken over, by everybody, from any message   test_a_later_term_makes_everybody_a_follower
5.1     an earlier term changes nothing                              test_an_earlier_term_changes_nothing
5.1     a deposed leader is told the term                            test_deposed_leader_is_told
5.1     terms never go back, not over a crash either                 test_terms_never_go_back
5.1     roles change only as in figure 4                             test_illegal_role_changes_are_defects
5.2     everybody begins as a follower                               test_starts_as_follower
5.2     heartbeats keep followers followers                          test_heartbeats_keep_it_follower
5.2     silence for an election timeout begins an election           test_timeout_begins_an_election
5.2     a candidate begins a term with its own vote                  test_a_candidate_begins_a_term_with_its_own_vote
5.2     one vote a term, first come first served                     test_one_vote_a_term
5.2     ... also after a crash                                       test_vote_survives_a_crash
5.2     ... with every order of messages and crash                   test_two_candidates_in_one_term
5.2     a majority wins                                              test_the_outcome_of_an_election
5.2     a majority is one of members                                 test_a_repeated_answer_counts_once
5.2     a candidate that hears the leader follows it                 test_candidate_yields_to_a_leader
5.2     an undecided candidate begins anew                           test_a_candidate_without_answers_begins_anew
5.2     a vote given starts the voter's timeout anew                 test_granting_a_vote_starts_the_timeout_anew
5.2     a leader announces itself at once                            test_a_new_leader_announces_itself_at_once
5.2     ... and goes on with heartbeats                              test_leader_sends_heartbeats
5.2     timeouts are random                                          test_timeouts_are_random
5.2     ... so split votes end soon                                  test_median_failover_is_short
5.3     only the leader takes proposals                              test_only_the_leader_takes_proposals
5.3     a majority commits                                           test_a_majority_commits
5.3     a commit takes what is before with it                        test_a_commit_takes_what_is_before_with_it
5.3     followers learn of a commit with what comes next             test_commit_is_told_at_once
5.3     an append is refused where the entry before does not match   test_consistency_check
5.3     conflicts are cut, agreement is kept                         test_conflicts_are_cut_and_agreement_is_kept
5.3     appending is the paper's, for any two logs                   test_append_is_the_paper_s
5.3     a leader never changes its own log                           test_a_leader_never_changes_its_own_log
5.3     a leader first assumes equal logs                            test_a_leader_first_assumes_equal_logs
5.3     figure 7: any follower's log becomes the leader's            test_figure_7
5.3     ... in few rounds, by the terms that conflict                test_long_conflicts_are_skipped_by_term
5.3     a follower that returns gets everything                      test_a_follower_that_returns_gets_everything
5.3     slow followers hold nobody up                                test_commits_with_a_minority_down
5.4.1   no vote for a log that lacks something of ours               test_only_for_a_log_as_complete_as_ours
5.4.1   ... in every order of messages                               test_candidate_that_lacks_something
5.4.2   old terms are not committed by counting                      test_older_terms_are_not_committed_by_counting
5.4.2   figure 8, both endings                                       test_figure_8
5.4.2   ... in every order of messages                               test_old_entry_on_a_majority
5.4.3   the five laws of figure 3, under any schedule                test_any_schedule
5.4.3   ... and under random ones with slow disks                    test_safety_and_recovery
5.5     what is sent twice is done once                              test_messages_are_idempotent
5.5     lost messages are sent again                                 test_lost_append_is_repaired
5.5     ... requests for votes, too                                  test_requests_are_repeated
6       one change of the membership at a time                       test_second_change_is_refused
6       new members get the log before their vote                    test_from_one_to_three
6       a removed leader steps down                                  test_removed_leader_steps_down
6       removed members do not disturb                               test_removed_while_away_is_told
7       a snapshot replaces what it contains                         test_behind_the_log_gets_a_snapshot
7       ... but not what goes beyond it                             test_snapshot_of_entries_that_are_there_only_commits
7       an old snapshot is ignored                                   test_stale_snapshot_is_ignored
7       only what is applied and stored is compacted                 test_only_what_is_applied_and_stored_is_compacted
7       index and term of the last compacted entry are kept          test_a_compacted_log_is_still_checked
7       a snapshot carries the membership                            test_a_snapshot_carries_the_membership
8       a leader begins with an empty entry                          test_begins_with_a_noop
8       a deposed leader answers no read                             test_deposed_leader_answers_none
T3.8    what was voted and stored is durable before it is said       test_acknowledges_only_what_is_durable
T3.10   a hand-over: first the log, then the election                test_target_is_brought_up_to_date_first
T3.10   ... without waiting for a timeout                            test_hands_over_at_once
T3.10   no proposals meanwhile; given up after a timeout    test_no_proposals_meanwhile_and_given_up_after_a_timeout
T3.10   a hand-over is an election like any other                    test_force_does_not_replace_a_complete_log
T4.1    old and new majorities meet                                  test_old_and_new_majorities_meet
T4.1    no change before an entry of the own term is committed    test_none_before_an_entry_of_the_own_term_is_committed
T4.1    an uncommitted change goes with its leader                   test_an_uncommitted_change_goes_with_its_leader
T4.1    ... whoever stands for election meanwhile                    test_removing_a_follower
T4.1    ... of two members, whoever crashes                          test_one_of_two_is_removed
T4.1    ... and while a learner gets its vote                        test_promoting_a_learner
T4.1    the next leader finishes the change it inherits              test_a_new_leader_finishes_the_change_it_inherits
T4.1    unlike there: in force when applied, not when appended    test_change_is_in_force_when_applied
T4.1    ... so nobody stands over a committed one it has not applied test_nobody_campaigns_over_an_unapplied_change
T4.2.1  learners have no part in any quorum                          test_a_learner_has_no_part_in_any_quorum
T4.2.1  a learner is promoted only when it has caught up             test_promotion_needs_a_learner_that_caught_up
T4.2.2  a leader leads until its own removal is in force       test_a_leader_counts_itself_until_its_removal_is_in_force
T4.2.3  who hears a leader ignores candidates                        test_votes_are_ignored_while_a_leader_is_heard
T4.2.3  ... also unknown ones                                        test_a_member_that_is_not_one_yet_disturbs_nobody
T4.2.3  ... but not the one that the leader asked                    test_a_forced_request_counts_in_the_lease
T5      each member takes its snapshots alone                        test_restart_from_snapshot_and_tail
T5      a kept tail spares slow followers the snapshot               test_kept_tail_spares_the_snapshot
T5      while a snapshot is on its way nothing else is sent          test_a_follower_is_fed_nothing_else_meanwhile
T6.2    a leader without a quorum ends within an election timeout  test_a_cut_off_leader_ends_within_an_election_timeout
T6.2    a deposed leader takes nothing                               test_a_deposed_leader_takes_nothing
T6.3    a repeated request is done once and gets the first answer    test_a_repeated_request_gets_the_first_answer
T6.3    ... also from the next leader                                test_the_next_leader_knows_the_answer
T6.4    a read is confirmed by a majority                            test_a_read_is_confirmed_by_a_majority
T6.4    ... by answers to heartbeats sent after it came              test_only_later_rounds_confirm
T6.4    reads share a round                                          test_reads_share_a_round
T6.4    a new leader answers when it has committed in its term       test_new_leader_waits_for_its_noop
T6.4    followers ask the leader                                     test_follower_reads_through_the_leader
T6.4    ... and nobody else                                          test_a_follower_does_not_answer_for_the_leader
T6.4    reads cost no write                                          test_reads_cost_no_write
T6.4    ... and are bounded                                          test_too_many_reads_are_refused
T9.6    a pre-vote binds nobody                                      test_a_pre_vote_binds_nobody
T9.6    no term rises without a majority                             test_minority_does_not_win
T9.6    a returning member does not disturb                          test_returning_member_does_not_disturb
T9.6    a refusal tells the term                                     test_a_refused_pre_vote_tells_the_term
T9.6    grants of another term do not count                          test_grants_of_another_term_do_not_count
T10.2.1 followers get an entry while the leader writes it            test_appends_go_out_before_the_own_disk
T10.2.1 ... and may commit it without the leader's disk          test_majority_of_followers_commits_without_the_own_disk
T10.2.1 ... which the leader's crash does not undo            test_a_commit_without_the_leaders_disk_survives_the_leader
T10.2.1 nothing is applied before it is committed                    test_nothing_is_applied_before_it_is_committed
T10.2.2 proposals share an append and a write                        test_proposals_share_an_append
T10.2.2 appends are pipelined, within a window                       test_window_bounds_what_is_in_flight
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
CLAIM = re.compile(r"^(?P<section>T?[\d.]+) +(?P<claim>\S.*?) +(?P<test>test_\w+)$", re.MULTILINE)


def names_in(path: Path) -> set[str]:
    """The names of the test functions in a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, functions) if n.name[:5] == "test_"}


def test_every_claim_has_a_test() -> None:
    """Each line of the table names a test that exists."""
    assert __doc__ is not None
    claims = CLAIM.findall(__doc__)
    assert len(claims) == __doc__.count("test_") >= 90
    existing = set().union(*(names_in(path) for path in HERE.parent.glob("*/test_*.py")))
    assert [test for _, _, test in claims if test not in existing] == []


def test_every_paper_test_is_in_the_table() -> None:
    """The table is complete for the files that exist for it."""
    assert __doc__ is not None
    written = set().union(*(names_in(path) for path in HERE.glob("test_paper_*.py")))
    assert sorted(written - {test for _, _, test in CLAIM.findall(__doc__)}) == []
