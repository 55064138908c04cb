-- Statements of this session may take as long as $1.
select set_config('statement_timeout', $1, false)
