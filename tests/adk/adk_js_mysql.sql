CREATE TABLE adk_internal_metadata (`key` varchar(255) NOT NULL, `value` varchar(255) NOT NULL, PRIMARY KEY (`key`));
CREATE TABLE app_states (`app_name` varchar(191) NOT NULL, `state` json NOT NULL, `update_time` datetime NOT NULL, PRIMARY KEY (`app_name`));
CREATE TABLE user_states (`app_name` varchar(191) NOT NULL, `user_id` varchar(191) NOT NULL, `state` json NOT NULL, `update_time` datetime NOT NULL, PRIMARY KEY (`app_name`, `user_id`));
CREATE TABLE sessions (`id` varchar(191) NOT NULL, `app_name` varchar(191) NOT NULL, `user_id` varchar(191) NOT NULL, `state` json NOT NULL, `create_time` datetime NOT NULL, `update_time` datetime NOT NULL, PRIMARY KEY (`id`, `app_name`, `user_id`));
CREATE TABLE events (`id` varchar(191) NOT NULL, `app_name` varchar(191) NOT NULL, `user_id` varchar(191) NOT NULL, `session_id` varchar(191) NOT NULL, `invocation_id` varchar(255) NOT NULL, `timestamp` datetime NOT NULL, `event_data` json NOT NULL, PRIMARY KEY (`id`, `app_name`, `user_id`, `session_id`));
INSERT INTO adk_internal_metadata VALUES ('schema_version', '1')
