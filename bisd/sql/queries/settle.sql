-- A batch of verdicts, written in one statement: a settled delivery leaves the table, one to be retried gets its next due
-- time, and what was tried is recorded. Fenced by the number of attempts: an owner that was deposed in between changes no
-- delivery, and a batch that is repeated after a lost answer changes nothing at all. And by the event's time: where a standby
-- has taken over that did not know of all events yet, their ids are given anew. What was put off without a POST keeps its number.
-- $1 webhook ids, $2 event ids, $3 the events' times, $4 attempts before this one, $5 next due times (null: settled),
-- $6 verdicts, $7 number of the attempt (null: there was no POST), $8 when it was made, $9 status, $10 code, $11 to $15
-- milliseconds (dns, connect, tls, first byte, total), $16 first bytes of the answer, $17 whether it was sent twice, $18 where a
-- redirect led, $19 whether it was a test, $20 the due times that were read. What was made due anew while it was sent keeps that,
-- unless it was taken.
-- Answers the deliveries that the fence kept as they were; none, normally. (any: a session that plans while the table is empty, and
-- known to be, would read all of it for each batch otherwise, and keep that plan: what is no equality is looked up, never joined.)
with batch as materialized (
    select *
    from unnest(
        $1::bigint[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::timestamptz[], $6::text[], $7::integer[],
        $8::timestamptz[], $9::smallint[], $10::text[], $11::real[], $12::real[], $13::real[], $14::real[], $15::real[],
        $16::bytea[], $17::boolean[], $18::text[], $19::boolean[], $20::timestamptz[]
    ) as b (webhook_id, event_id, event_created_at, attempts, due_at, verdict, number, attempted_at, status, code, dns_ms,
            connect_ms, tls_ms, first_byte_ms, total_ms, answer, resent, location, test, was_due)
), settled as (
    delete from bisd.delivery d
    using batch b
    where b.due_at is null and d.webhook_id = any (array[b.webhook_id]) and d.event_id = any (array[b.event_id])
      and d.attempts = b.attempts and d.event_created_at = b.event_created_at
      and (d.due_at = b.was_due or b.verdict in ('delivered', 'refused') or d.test)
    returning d.webhook_id, d.event_id
), retried as (
    update bisd.delivery d
    set attempts = case when b.due_at is null then 0 else coalesce(b.number, d.attempts) end,
        due_at = case when d.due_at = b.was_due then b.due_at else d.due_at end
    from batch b
    where d.webhook_id = any (array[b.webhook_id]) and d.event_id = any (array[b.event_id])
      and d.attempts = b.attempts and d.event_created_at = b.event_created_at
      and (b.due_at is not null or (d.due_at <> b.was_due and b.verdict not in ('delivered', 'refused') and not d.test))
    returning d.webhook_id, d.event_id
), recorded as (
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, code, due_at,
                              dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, answer, resent, location, test)
    select event_id, webhook_id, attempted_at, event_created_at, number, verdict::bisd.verdict, status, code, due_at,
           dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, answer, resent, location, test
    from batch
    on conflict do nothing
)
select webhook_id, event_id from batch
except
(select webhook_id, event_id from settled union all select webhook_id, event_id from retried)
