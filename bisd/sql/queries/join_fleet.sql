-- Makes this session a member of the fleet, under the name $1, for as long as it lives: until it has asked nothing for $2.
select
    set_config('application_name', $1, false),
    set_config('idle_session_timeout', $2, false),
    pg_advisory_lock_shared(1651143524, 64)
