-- Who may do what here.
grant select on loyalty.metrics
    to loyalty_monitor;
grant execute on function
    loyalty.points_metrics(integer),
    loyalty.work_metrics(),
    loyalty.metric_help(text),
    loyalty.metrics_text(),
    loyalty.health()
    to loyalty_monitor;
grant execute on function
    loyalty.log_settings,
    loyalty.health,
    loyalty.points_metrics,
    loyalty.work_metrics,
    loyalty.metric_help,
    loyalty.metrics_text
    to loyalty_operator;
