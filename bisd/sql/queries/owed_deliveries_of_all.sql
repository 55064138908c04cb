-- Deliveries that are owed to any webhook, the latest to arrive first: in the state $1; if that is null, those not tried yet. Of events
-- that happened from $2 on and before $3, unless null; of topic $4 unless that is null. Before the row $6 of transaction $5, null for
-- the end; $7 are looked at: those that are none of these say how far that went. An index keeps what is of one transaction in the order
-- of its rows, which are not sorted: there may be a million.
select d.txid::text as at_txid, d.place::text as at_place, d.event_created_at as at,
       case when fits.fits then d.event_id end as event_id, case when fits.fits then d.webhook_id end as webhook_id
from (
    select d.event_id, d.webhook_id, d.event_created_at, d.attempts, d.test, d.txid, d.ctid as place
    from bisd.delivery d
    where d.txid <= coalesce($5::text::xid8, '18446744073709551615')
      and ($5::text is null or d.txid < $5::text::xid8 or d.ctid < $6::text::tid)
    order by d.txid desc
    limit $7::bigint
) d
join bisd.webhook w on w.id = d.webhook_id
cross join lateral (
    select case $1::text
           when 'pending' then d.attempts = 0 and (w.live or d.test)
           when 'retrying' then d.attempts > 0 and (w.live or d.test)
           when 'held' then not (w.live or d.test)
           else d.attempts = 0 end
       and ($2::timestamptz is null or d.event_created_at >= $2::timestamptz)
       and ($3::timestamptz is null or d.event_created_at < $3::timestamptz)
       and ($4::text is null or w.topic = $4::text) as fits
) fits
order by d.txid desc, d.place desc
