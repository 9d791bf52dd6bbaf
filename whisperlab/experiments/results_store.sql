-- SQL of whisperlab.experiments.results_store, in parts that begin with "-- part" and a name. str.format fills the braces.
-- part: tables
-- each configuration once, as JSON
create table configurations (config_id integer primary key, digest text unique not null,
    config text not null check (json_type(config) = 'object')) strict;
-- one line per row, with the numbers and names that queries need (COLUMNS)
create table results (
    id integer primary key,
    config_id integer not null references configurations,
    {columns},
    {rates},
    unique (key),
    check (delays is null or json_type(delays) = 'array')
) strict;
create index results_by_configuration on results (config_id);
create index results_by_recording on results (recording, corpus, split, duration_s);
create index results_by_time on results (created);
create index results_failed on results (status) where status <> 'ok';
-- the latency of each operation in each row, in milliseconds
create table operations (id integer, operation text, {timings}, primary key (id, operation)) strict, without rowid;
-- the whole rows as JSON
create table documents (id integer primary key, row text not null check (json_type(row) = 'object')) strict;
create trigger results_deleted after delete on results
begin delete from operations where id = old.id; delete from documents where id = old.id; end;
-- results with the configuration beside it
create view runs as select * from results join configurations using (config_id);
-- part: totals
-- The finished rows of each configuration added up (TOTALS). A change of its rows deletes a line, and the writer adds the
-- missing lines when it closes the store.
create table totals (config_id integer primary key, {totals}) strict;
create trigger totals_insert after insert on results begin delete from totals where config_id = new.config_id; end;
create trigger totals_delete after delete on results begin delete from totals where config_id = old.config_id; end;
create trigger totals_update after update on results
begin delete from totals where config_id in (old.config_id, new.config_id); end;
pragma user_version = {layout};
