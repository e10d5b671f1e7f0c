//! The cluster suite: the built binary as a user runs it, one server and one
//! agent as two hosts, driven by stock kubectl, by kube-rs and by Helm.

mod application;
mod bad_input;
mod cleanup;
mod durability;
mod etcd;
mod join;
mod kube_rs;
mod libraries;
mod manifests;
mod network;
mod start;
mod storage;
mod streaming;
mod terminal;
mod verbs;
mod workloads;

use std::process::ExitCode;

use skiff_tests::{Cluster, ClusterOptions, runner, tests};

fn main() -> ExitCode {
    if let Ok(namespace) = std::env::var(kube_rs::VARIABLE) {
        return kube_rs::main(&namespace);
    }
    let tests = tests![
        start::both_nodes_become_ready,
        start::the_kubeconfig_is_private,
        start::cluster_dns_runs,
        start::bundled_manifests_are_shown_as_addons,
        start::skiff_kubectl_is_preset_to_the_cluster,
        start::the_version_is_machine_readable,
        application::it_becomes_ready_on_both_nodes_and_answers_by_name_from_each,
        application::it_is_deleted_without_residue,
        verbs::get_prints_every_format,
        verbs::describe_tells_the_story,
        verbs::explain_reads_the_schemas,
        verbs::logs_select_and_limit,
        verbs::exec_passes_input_output_and_exit_codes,
        verbs::cp_copies_both_ways,
        verbs::attach_joins_a_running_container,
        verbs::port_forward_reaches_a_service,
        verbs::diff_shows_only_what_would_change,
        verbs::edit_changes_an_object,
        verbs::all_types_of_patches_apply,
        verbs::label_and_annotate_add_and_remove,
        verbs::scale_follows,
        verbs::rollouts_proceed_and_can_be_undone,
        verbs::expose_makes_a_service_that_answers,
        verbs::top_says_that_metrics_are_missing_or_shows_them,
        verbs::nodes_tell_what_they_and_their_pods_use,
        verbs::create_run_wait_and_delete_work,
        verbs::cordon_and_drain_move_pods_away,
        verbs::server_side_apply_reports_conflicts,
        verbs::discovery_and_authorization_can_be_asked,
        streaming::logs_exec_copy_and_forward_need_no_inbound_port_of_the_agent,
        streaming::large_transfers_arrive_complete,
        terminal::exec_has_a_terminal_that_follows_its_size_and_passes_keys,
        terminal::attach_takes_over_the_terminal_of_a_container,
        terminal::run_with_rm_leaves_with_the_exit_code_and_no_pod,
        terminal::debug_opens_a_shell_beside_a_container_and_on_a_node,
        verbs::the_application_is_deleted,
        kube_rs::kube_rs_deploys_watches_patches_and_streams,
        libraries::the_python_client_runs_commands_in_pods,
        libraries::the_javascript_client_runs_commands_in_pods,
        libraries::helm_installs_upgrades_rolls_back_and_uninstalls,
        network::pods_reach_each_other_across_nodes_with_their_own_addresses,
        network::services_answer_from_pods_and_hosts_by_cluster_ip_and_node_port,
        network::names_resolve_over_udp_and_tcp,
        network::session_affinity_keeps_a_client_at_one_pod,
        network::a_service_without_endpoints_refuses_at_once,
        network::pods_reach_the_api_server_by_its_service,
        workloads::a_failing_liveness_probe_restarts_the_container,
        workloads::an_unready_pod_leaves_its_service,
        workloads::a_crashing_container_backs_off_and_keeps_its_last_log,
        workloads::init_containers_run_in_order_before_the_others,
        workloads::a_pod_ends_gracefully_after_its_pre_stop_hook,
        workloads::resources_become_limits_of_the_kernel,
        workloads::the_downward_api_tells_a_pod_about_itself,
        workloads::a_security_context_sets_identity_and_rights,
        storage::every_kind_of_volume_holds_what_it_should,
        storage::a_pod_waits_for_a_missing_config_map,
        storage::a_projected_token_is_accepted_by_the_api_server,
        manifests::files_are_applied_followed_and_frozen,
        etcd::etcdctl_reads_the_objects_of_the_cluster,
        etcd::etcdctl_writes_in_transactions_and_watches,
        join::keys_and_passwords_of_a_node_never_leave_it_and_are_private,
        join::a_node_name_belongs_to_the_host_that_took_it_first,
        join::a_node_may_not_touch_what_belongs_to_others,
        join::an_agent_without_a_server_url_says_what_is_missing,
        bad_input::a_wrong_token_is_refused,
        bad_input::a_wrong_authority_is_not_trusted,
        bad_input::an_agent_waits_for_its_server_and_says_so,
        bad_input::a_port_in_use_is_named,
        bad_input::a_second_server_on_the_same_data_is_refused,
        bad_input::an_unknown_configuration_key_is_named_with_file_and_line,
        bad_input::not_being_root_is_said,
        bad_input::a_missing_cgroup_controller_is_named,
        bad_input::a_malformed_manifest_is_reported_and_others_apply,
        durability::a_rollout_survives_a_crash_of_the_server,
        durability::an_agent_adopts_its_containers_after_a_crash,
        durability::pods_serve_while_skiff_is_stopped,
        durability::pods_run_on_while_skiff_is_upgraded,
        durability::no_acknowledged_write_is_lost_in_a_crash,
        join::the_tunnel_comes_back_after_the_server_was_gone,
        bad_input::an_unreadable_image_archive_is_reported_and_others_are_imported,
        cleanup::killall_leaves_nothing_of_skiff_and_all_of_others,
    ];
    let options = ClusterOptions { agent: true, ..ClusterOptions::default() };
    runner::main_with(tests, || Cluster::start(options), Cluster::last_log_lines)
}
