-- Bench: this session's process, and whether it is on this machine, as far as the server can tell.
select pg_backend_pid() as pid, coalesce(inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1', true) as local
