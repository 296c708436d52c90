-- The signature of each policy's manifest: the key's id and the signature, both in hex. Policies of older
-- releases have none until `hearken sign` signs them.

alter table policies add column signature text;

drop trigger audit on policies;
create trigger audit after update of state, pinned_at, asked_at, signature on policies
    for each row execute function write_audit_log('policy', 'id');
