CREATE TABLE adk_internal_metadata (key varchar(128) NOT NULL PRIMARY KEY, value varchar(256) NOT NULL);
CREATE TABLE app_states (app_name varchar(128) NOT NULL PRIMARY KEY, state jsonb NOT NULL, update_time timestamp NOT NULL);
CREATE TABLE user_states (app_name varchar(128) NOT NULL, user_id varchar(128) NOT NULL, state jsonb NOT NULL, update_time timestamp NOT NULL, PRIMARY KEY (app_name, user_id));
CREATE TABLE sessions (app_name varchar(128) NOT NULL, user_id varchar(128) NOT NULL, id varchar(128) NOT NULL, state jsonb NOT NULL, create_time timestamp NOT NULL, update_time timestamp NOT NULL, PRIMARY KEY (app_name, user_id, id));
CREATE TABLE events (id varchar(128) NOT NULL, app_name varchar(128) NOT NULL, user_id varchar(128) NOT NULL, session_id varchar(128) NOT NULL, invocation_id varchar(256) NOT NULL, "timestamp" timestamp NOT NULL, event_data jsonb, PRIMARY KEY (id, app_name, user_id, session_id), FOREIGN KEY (app_name, user_id, session_id) REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE);
CREATE INDEX idx_events_app_user_session_ts_id ON events (app_name, user_id, session_id, "timestamp" DESC, id DESC);
INSERT INTO adk_internal_metadata VALUES ('schema_version', '1')
