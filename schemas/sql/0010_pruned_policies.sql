-- Old policies lose their files and keep their rows and manifests (trainer/records/prune.py).

alter table policies
    add column pinned_at timestamptz,                -- an operator keeps it, whatever its age
    add column pruned_at timestamptz,                -- it may not serve any more; its files are deleted next
    add column files_deleted_at timestamptz;         -- all but its manifest.json are gone
create index policies_to_delete on policies (project) where pruned_at is not null and files_deleted_at is null;
