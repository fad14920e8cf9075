CREATE TABLE adk_internal_metadata ("key" text NOT NULL, "value" text NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE app_states ("app_name" text NOT NULL, "state" json NOT NULL, "update_time" datetime NOT NULL, PRIMARY KEY ("app_name"));
CREATE TABLE user_states ("app_name" text NOT NULL, "user_id" text NOT NULL, "state" json NOT NULL, "update_time" datetime NOT NULL, PRIMARY KEY ("app_name", "user_id"));
CREATE TABLE sessions ("id" text NOT NULL, "app_name" text NOT NULL, "user_id" text NOT NULL, "state" json NOT NULL, "create_time" datetime NOT NULL, "update_time" datetime NOT NULL, PRIMARY KEY ("id", "app_name", "user_id"));
CREATE TABLE events ("id" text NOT NULL, "app_name" text NOT NULL, "user_id" text NOT NULL, "session_id" text NOT NULL, "invocation_id" text NOT NULL, "timestamp" datetime NOT NULL, "event_data" json NOT NULL, PRIMARY KEY ("id", "app_name", "user_id", "session_id"));
INSERT INTO adk_internal_metadata VALUES ('schema_version', '1')
