BEGIN TRANSACTION;
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE events (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at BIGINT NOT NULL, 
	project_id VARCHAR(36), 
	run_id VARCHAR(36), 
	job_id VARCHAR(36), 
	instance_id VARCHAR(36), 
	actor VARCHAR(120) NOT NULL, 
	kind VARCHAR(60) NOT NULL, 
	status VARCHAR(20), 
	message TEXT NOT NULL
);
INSERT INTO "events" VALUES(1,1893456000000000,'000003','000004',NULL,NULL,'user admin','run.submitted','submitted','admin submitted done');
INSERT INTO "events" VALUES(2,1893456000000000,'000003','000004','000005','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(3,1893456000000000,'000003','000004',NULL,NULL,'engine','run.provisioning','provisioning','run done is provisioning');
INSERT INTO "events" VALUES(4,1893456000000000,NULL,NULL,NULL,'000006','engine','instance.provisioning','provisioning','instance local 000006 is provisioning');
INSERT INTO "events" VALUES(5,1893456025570000,NULL,NULL,NULL,'000006','engine','instance.busy','busy','instance local 000006 is busy');
INSERT INTO "events" VALUES(6,1893456025590000,'000003','000004','000005','000006','engine','job.terminating','terminating','job is terminating');
INSERT INTO "events" VALUES(7,1893456025590000,'000003','000004',NULL,NULL,'engine','run.running','running','run done is running');
INSERT INTO "events" VALUES(8,1893456025630000,'000003','000004','000005','000006','engine','job.done','done','job is done');
INSERT INTO "events" VALUES(9,1893456025630000,'000003','000004',NULL,NULL,'engine','run.terminating','terminating','run done is terminating');
INSERT INTO "events" VALUES(10,1893456025630000,NULL,NULL,NULL,'000006','engine','instance.idle','idle','instance local 000006 is idle');
INSERT INTO "events" VALUES(11,1893456025630000,'000003','000004',NULL,NULL,'engine','run.done','done','run done is done');
INSERT INTO "events" VALUES(12,1893456025630000,'000003','000007',NULL,NULL,'user admin','run.submitted','submitted','admin submitted failed');
INSERT INTO "events" VALUES(13,1893456025630000,'000003','000007','000008','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(14,1893456025630000,'000003','000007',NULL,NULL,'engine','run.provisioning','provisioning','run failed is provisioning');
INSERT INTO "events" VALUES(15,1893456025630000,NULL,NULL,NULL,'000006','engine','instance.busy','busy','instance local 000006 is busy');
INSERT INTO "events" VALUES(16,1893456025650000,'000003','000007','000008','000006','engine','job.terminating','terminating','job is terminating (exit code 3)');
INSERT INTO "events" VALUES(17,1893456025650000,'000003','000007',NULL,NULL,'engine','run.terminating','terminating','run failed is terminating (exit code 3)');
INSERT INTO "events" VALUES(18,1893456025690000,'000003','000007','000008','000006','engine','job.failed','failed','job failed (exit code 3)');
INSERT INTO "events" VALUES(19,1893456025690000,'000003','000007',NULL,NULL,'engine','run.failed','failed','run failed failed (exit code 3)');
INSERT INTO "events" VALUES(20,1893456025690000,NULL,NULL,NULL,'000006','engine','instance.idle','idle','instance local 000006 is idle');
INSERT INTO "events" VALUES(21,1893456025690000,'000003','000009',NULL,NULL,'user admin','run.submitted','submitted','admin submitted repaired');
INSERT INTO "events" VALUES(22,1893456025690000,'000003','000009','000010','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(23,1893456025690000,'000003','000009',NULL,NULL,'engine','run.provisioning','provisioning','run repaired is provisioning');
INSERT INTO "events" VALUES(24,1893456025690000,NULL,NULL,NULL,'000006','engine','instance.busy','busy','instance local 000006 is busy');
INSERT INTO "events" VALUES(25,1893456025710000,'000003','000009','000010','000006','engine','job.terminating','terminating','job is terminating (exit code 1)');
INSERT INTO "events" VALUES(26,1893456025750000,'000003','000009','000010','000006','engine','job.failed','failed','job failed (exit code 1)');
INSERT INTO "events" VALUES(27,1893456025750000,'000003','000009',NULL,NULL,'engine','run.pending','pending','run repaired is pending (attempt 1 failed (exit code 1); attempt 2 starts at 2030-01-01 00:00:30 UTC)');
INSERT INTO "events" VALUES(28,1893456025750000,NULL,NULL,NULL,'000006','engine','instance.idle','idle','instance local 000006 is idle');
INSERT INTO "events" VALUES(29,1893456030750000,'000003','000009',NULL,NULL,'engine','run.submitted','submitted','run repaired is submitted');
INSERT INTO "events" VALUES(30,1893456030750000,'000003','000009','000012','000006','engine','job.provisioning','provisioning','job attempt 2 is provisioning');
INSERT INTO "events" VALUES(31,1893456030750000,'000003','000009',NULL,NULL,'engine','run.provisioning','provisioning','run repaired is provisioning');
INSERT INTO "events" VALUES(32,1893456030750000,NULL,NULL,NULL,'000006','engine','instance.busy','busy','instance local 000006 is busy');
INSERT INTO "events" VALUES(33,1893456030770000,'000003','000009','000012','000006','engine','job.terminating','terminating','job attempt 2 is terminating');
INSERT INTO "events" VALUES(34,1893456030770000,'000003','000009',NULL,NULL,'engine','run.running','running','run repaired is running');
INSERT INTO "events" VALUES(35,1893456030810000,'000003','000009','000012','000006','engine','job.done','done','job attempt 2 is done');
INSERT INTO "events" VALUES(36,1893456030810000,'000003','000009',NULL,NULL,'engine','run.terminating','terminating','run repaired is terminating');
INSERT INTO "events" VALUES(37,1893456030810000,NULL,NULL,NULL,'000006','engine','instance.idle','idle','instance local 000006 is idle');
INSERT INTO "events" VALUES(38,1893456030810000,'000003','000009',NULL,NULL,'engine','run.done','done','run repaired is done');
INSERT INTO "events" VALUES(39,1893456030810000,'000003','000013',NULL,NULL,'user admin','run.submitted','submitted','admin submitted running');
INSERT INTO "events" VALUES(40,1893456030810000,'000003','000013','000014','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(41,1893456030810000,'000003','000013',NULL,NULL,'engine','run.provisioning','provisioning','run running is provisioning');
INSERT INTO "events" VALUES(42,1893456030810000,NULL,NULL,NULL,'000006','engine','instance.busy','busy','instance local 000006 is busy');
INSERT INTO "events" VALUES(43,1893456030830000,'000003','000013','000014','000006','engine','job.running','running','job is running');
INSERT INTO "events" VALUES(44,1893456030830000,'000003','000013',NULL,NULL,'engine','run.running','running','run running is running');
INSERT INTO "events" VALUES(45,1893456030830000,'000003','000015',NULL,NULL,'user admin','run.submitted','submitted','admin submitted gang');
INSERT INTO "events" VALUES(46,1893456030830000,'000003','000015','000016','000018','engine','job.provisioning','provisioning','job 0/0 is provisioning');
INSERT INTO "events" VALUES(47,1893456030830000,'000003','000015','000017','000019','engine','job.provisioning','provisioning','job 0/1 is provisioning');
INSERT INTO "events" VALUES(48,1893456030830000,'000003','000015',NULL,NULL,'engine','run.provisioning','provisioning','run gang is provisioning');
INSERT INTO "events" VALUES(49,1893456030830000,'000003',NULL,NULL,'000018','engine','instance.provisioning','provisioning','instance aws aws-small 000018 is provisioning');
INSERT INTO "events" VALUES(50,1893456030830000,'000003',NULL,NULL,'000019','engine','instance.provisioning','provisioning','instance aws aws-small 000019 is provisioning');
INSERT INTO "events" VALUES(51,1893456056400000,'000003',NULL,NULL,'000018','engine','instance.busy','busy','instance aws aws-small 000018 is busy');
INSERT INTO "events" VALUES(52,1893456056400000,'000003',NULL,NULL,'000019','engine','instance.busy','busy','instance aws aws-small 000019 is busy');
INSERT INTO "events" VALUES(53,1893456056420000,'000003','000015','000016','000018','engine','job.running','running','job 0/0 is running');
INSERT INTO "events" VALUES(54,1893456056420000,'000003','000015',NULL,NULL,'engine','run.running','running','run gang is running');
INSERT INTO "events" VALUES(55,1893456056420000,'000003','000015','000017','000019','engine','job.running','running','job 0/1 is running');
INSERT INTO "events" VALUES(56,1893456056420000,'000003','000020',NULL,NULL,'user admin','run.submitted','submitted','admin submitted stopped');
INSERT INTO "events" VALUES(57,1893456056420000,'000003','000020','000021','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(58,1893456056420000,'000003','000020',NULL,NULL,'engine','run.provisioning','provisioning','run stopped is provisioning');
INSERT INTO "events" VALUES(59,1893456056440000,'000003','000020','000021','000006','engine','job.running','running','job is running');
INSERT INTO "events" VALUES(60,1893456056440000,'000003','000020',NULL,NULL,'engine','run.running','running','run stopped is running');
INSERT INTO "events" VALUES(61,1893456056440000,'000003','000022',NULL,NULL,'user admin','run.submitted','submitted','admin submitted ended');
INSERT INTO "events" VALUES(62,1893456056440000,'000003','000022','000023','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(63,1893456056440000,'000003','000022',NULL,NULL,'engine','run.provisioning','provisioning','run ended is provisioning');
INSERT INTO "events" VALUES(64,1893456056460000,'000003','000022','000023','000006','engine','job.running','running','job is running');
INSERT INTO "events" VALUES(65,1893456056460000,'000003','000022',NULL,NULL,'engine','run.running','running','run ended is running');
INSERT INTO "events" VALUES(66,1893456056460000,'000003','000022',NULL,NULL,'user admin','run.stop_asked','running','admin asked to stop ended');
INSERT INTO "events" VALUES(67,1893456056460000,'000003','000022',NULL,NULL,'engine','run.terminating','terminating','run ended is terminating (stopped by user)');
INSERT INTO "events" VALUES(68,1893456056460000,'000003','000022','000023','000006','engine','job.terminating','terminating','job is terminating (stopped by user)');
INSERT INTO "events" VALUES(69,1893456056980000,'000003','000022','000023','000006','engine','job.terminated','terminated','job is terminated (stopped by user)');
INSERT INTO "events" VALUES(70,1893456056980000,'000003','000022',NULL,NULL,'engine','run.terminated','terminated','run ended is terminated (stopped by user)');
INSERT INTO "events" VALUES(71,1893456056980000,'000003','000024',NULL,NULL,'user admin','run.submitted','submitted','admin submitted editor');
INSERT INTO "events" VALUES(72,1893456056980000,'000003','000024','000025','000006','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(73,1893456056980000,'000003','000024',NULL,NULL,'engine','run.provisioning','provisioning','run editor is provisioning');
INSERT INTO "events" VALUES(74,1893456057000000,'000003','000024','000025','000006','engine','job.running','running','job is running');
INSERT INTO "events" VALUES(75,1893456057000000,'000003','000024',NULL,NULL,'engine','run.running','running','run editor is running');
INSERT INTO "events" VALUES(76,1893456057000000,'000003','000026',NULL,NULL,'user admin','run.submitted','submitted','admin submitted web');
INSERT INTO "events" VALUES(77,1893456057000000,'000003','000026','000027','000029','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(78,1893456057000000,'000003','000026','000028','000030','engine','job.provisioning','provisioning','job 1/0 is provisioning');
INSERT INTO "events" VALUES(79,1893456057000000,'000003','000026',NULL,NULL,'engine','run.provisioning','provisioning','run web is provisioning');
INSERT INTO "events" VALUES(80,1893456057000000,'000003',NULL,NULL,'000029','engine','instance.provisioning','provisioning','instance aws aws-small 000029 is provisioning');
INSERT INTO "events" VALUES(81,1893456057000000,'000003',NULL,NULL,'000030','engine','instance.provisioning','provisioning','instance aws aws-small 000030 is provisioning');
INSERT INTO "events" VALUES(82,1893456057170000,'000003',NULL,NULL,'000030','engine','instance.busy','busy','instance aws aws-small 000030 is busy');
INSERT INTO "events" VALUES(83,1893456057190000,'000003','000026','000028','000030','engine','job.running','running','job 1/0 is running');
INSERT INTO "events" VALUES(84,1893456057190000,'000003','000026',NULL,NULL,'engine','run.running','running','run web is running');
INSERT INTO "events" VALUES(85,1893456057190000,'000003','000031',NULL,NULL,'user admin','run.submitted','pending','admin submitted scheduled');
INSERT INTO "events" VALUES(86,1893456057190000,'000003','000034',NULL,NULL,'user admin','run.submitted','submitted','admin submitted queued');
INSERT INTO "events" VALUES(87,1893456057190000,'000003','000036',NULL,NULL,'user admin','run.submitted','submitted','admin submitted retrying');
INSERT INTO "events" VALUES(88,1893456057190000,'000003','000036','000037','000038','engine','job.provisioning','provisioning','job is provisioning');
INSERT INTO "events" VALUES(89,1893456057190000,'000003','000036',NULL,NULL,'engine','run.provisioning','provisioning','run retrying is provisioning');
INSERT INTO "events" VALUES(90,1893456057190000,'000003',NULL,NULL,'000038','engine','instance.provisioning','provisioning','instance aws aws-small 000038 is provisioning');
INSERT INTO "events" VALUES(91,1893456082570000,'000003',NULL,NULL,'000029','engine','instance.busy','busy','instance aws aws-small 000029 is busy');
INSERT INTO "events" VALUES(92,1893456082590000,'000003','000026','000027','000029','engine','job.running','running','job is running');
INSERT INTO "events" VALUES(93,1893456097760000,'000003',NULL,NULL,'000038','engine','instance.busy','busy','instance aws aws-small 000038 is busy');
INSERT INTO "events" VALUES(94,1893456097780000,'000003','000036','000037','000038','engine','job.terminating','terminating','job is terminating (exit code 1)');
INSERT INTO "events" VALUES(95,1893456097800000,'000003','000036','000037','000038','engine','job.failed','failed','job failed (exit code 1)');
INSERT INTO "events" VALUES(96,1893456097800000,'000003','000036',NULL,NULL,'engine','run.pending','pending','run retrying is pending (attempt 1 failed (exit code 1); attempt 2 starts at 2030-01-01 00:01:42 UTC)');
INSERT INTO "events" VALUES(97,1893456097800000,'000003',NULL,NULL,'000038','engine','instance.idle','idle','instance aws aws-small 000038 is idle');
CREATE TABLE instances (
	id VARCHAR(36) NOT NULL, 
	project_id VARCHAR(36), 
	backend VARCHAR(40) NOT NULL, 
	offer JSON NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	status_since BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	idle_duration_s FLOAT, 
	machine_id VARCHAR(300), 
	hostname VARCHAR(300), 
	agent_seen_at BIGINT, 
	unreachable_since BIGINT, 
	gone_at BIGINT, 
	failed_starts INTEGER DEFAULT '0' NOT NULL, 
	rests_until BIGINT, 
	ssh_port INTEGER, 
	ssh_host_key TEXT, 
	reason VARCHAR(40), 
	detail TEXT NOT NULL, 
	finished_at BIGINT, 
	version INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(project_id) REFERENCES projects (id)
);
INSERT INTO "instances" VALUES('000006',NULL,'local','{"backend": "local", "region": "local", "instance_type": "local", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 102400, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.0, "spot": false, "shared": true, "machines_max": 1}','busy',1893456030810000,1893456000000000,3600.0,'000006','10.0.0.7',1893456025570000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,13);
INSERT INTO "instances" VALUES('000018','000003','aws','{"backend": "aws", "region": "eu", "instance_type": "aws-small", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 204800, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.2, "spot": false, "shared": false, "machines_max": null}','busy',1893456056400000,1893456030830000,3600.0,'000018','10.0.0.19',1893456056400000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,5);
INSERT INTO "instances" VALUES('000019','000003','aws','{"backend": "aws", "region": "eu", "instance_type": "aws-small", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 204800, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.2, "spot": false, "shared": false, "machines_max": null}','busy',1893456056400000,1893456030830000,3600.0,'000019','10.0.0.20',1893456056400000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,5);
INSERT INTO "instances" VALUES('000029','000003','aws','{"backend": "aws", "region": "eu", "instance_type": "aws-small", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 204800, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.2, "spot": false, "shared": false, "machines_max": null}','busy',1893456082570000,1893456057000000,300.0,'000029','10.0.0.30',1893456082570000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,5);
INSERT INTO "instances" VALUES('000030','000003','aws','{"backend": "aws", "region": "eu", "instance_type": "aws-small", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 204800, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.2, "spot": false, "shared": false, "machines_max": null}','busy',1893456057170000,1893456057000000,300.0,'000030','10.0.0.31',1893456057170000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,5);
INSERT INTO "instances" VALUES('000038','000003','aws','{"backend": "aws", "region": "eu", "instance_type": "aws-small", "resources": {"cpus": 4, "memory_mib": 16384, "disk_mib": 204800, "gpus": [], "engine": null, "engine_problem": "", "arch": "", "pythons": []}, "price": 0.2, "spot": false, "shared": false, "machines_max": null}','idle',1893456097800000,1893456057190000,3600.0,'000038','10.0.0.39',1893456097760000,NULL,NULL,0,NULL,NULL,NULL,NULL,'',NULL,6);
CREATE TABLE intents (
	object_kind VARCHAR(20) NOT NULL, 
	object_id VARCHAR(36) NOT NULL, 
	position INTEGER NOT NULL, 
	instance_id VARCHAR(36) NOT NULL, 
	kind VARCHAR(40) NOT NULL, 
	body JSON NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	outcome JSON, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (object_kind, object_id, position)
);
INSERT INTO "intents" VALUES('instance','000006',0,'000006','launch_machine','{"object_id": "000006"}','done','{"machine_id": "000006", "hostname": "10.0.0.7"}',1893456000000000);
INSERT INTO "intents" VALUES('job','000005',0,'000006','start_job','{"object_id": "000005", "instance_id": "000006"}','done','{}',1893456025570000);
INSERT INTO "intents" VALUES('job','000005',1,'000006','forget_job','{"object_id": "000005", "instance_id": "000006"}','done','{}',1893456025630000);
INSERT INTO "intents" VALUES('job','000008',0,'000006','start_job','{"object_id": "000008", "instance_id": "000006"}','done','{}',1893456025630000);
INSERT INTO "intents" VALUES('job','000008',1,'000006','forget_job','{"object_id": "000008", "instance_id": "000006"}','done','{}',1893456025690000);
INSERT INTO "intents" VALUES('job','000010',0,'000006','start_job','{"object_id": "000010", "instance_id": "000006"}','done','{}',1893456025690000);
INSERT INTO "intents" VALUES('job','000010',1,'000006','forget_job','{"object_id": "000010", "instance_id": "000006"}','done','{}',1893456025750000);
INSERT INTO "intents" VALUES('job','000012',0,'000006','start_job','{"object_id": "000012", "instance_id": "000006"}','done','{}',1893456030750000);
INSERT INTO "intents" VALUES('job','000012',1,'000006','forget_job','{"object_id": "000012", "instance_id": "000006"}','done','{}',1893456030810000);
INSERT INTO "intents" VALUES('job','000014',0,'000006','start_job','{"object_id": "000014", "instance_id": "000006"}','done','{}',1893456030810000);
INSERT INTO "intents" VALUES('instance','000018',0,'000018','launch_machine','{"object_id": "000018"}','done','{"machine_id": "000018", "hostname": "10.0.0.19"}',1893456030830000);
INSERT INTO "intents" VALUES('instance','000019',0,'000019','launch_machine','{"object_id": "000019"}','done','{"machine_id": "000019", "hostname": "10.0.0.20"}',1893456030830000);
INSERT INTO "intents" VALUES('job','000016',0,'000018','start_job','{"object_id": "000016", "instance_id": "000018"}','done','{}',1893456056400000);
INSERT INTO "intents" VALUES('job','000017',0,'000019','start_job','{"object_id": "000017", "instance_id": "000019"}','done','{}',1893456056400000);
INSERT INTO "intents" VALUES('job','000021',0,'000006','start_job','{"object_id": "000021", "instance_id": "000006"}','done','{}',1893456056420000);
INSERT INTO "intents" VALUES('job','000023',0,'000006','start_job','{"object_id": "000023", "instance_id": "000006"}','done','{}',1893456056440000);
INSERT INTO "intents" VALUES('job','000023',1,'000006','stop_job','{"object_id": "000023", "instance_id": "000006", "grace_s": 10.0}','done','{}',1893456056460000);
INSERT INTO "intents" VALUES('job','000023',2,'000006','forget_job','{"object_id": "000023", "instance_id": "000006"}','done','{}',1893456056980000);
INSERT INTO "intents" VALUES('job','000025',0,'000006','start_job','{"object_id": "000025", "instance_id": "000006"}','done','{}',1893456056980000);
INSERT INTO "intents" VALUES('instance','000029',0,'000029','launch_machine','{"object_id": "000029"}','done','{"machine_id": "000029", "hostname": "10.0.0.30"}',1893456057000000);
INSERT INTO "intents" VALUES('instance','000030',0,'000030','launch_machine','{"object_id": "000030"}','done','{"machine_id": "000030", "hostname": "10.0.0.31"}',1893456057000000);
INSERT INTO "intents" VALUES('job','000028',0,'000030','start_job','{"object_id": "000028", "instance_id": "000030"}','done','{}',1893456057170000);
INSERT INTO "intents" VALUES('instance','000038',0,'000038','launch_machine','{"object_id": "000038"}','done','{"machine_id": "000038", "hostname": "10.0.0.39"}',1893456057190000);
INSERT INTO "intents" VALUES('job','000027',0,'000029','start_job','{"object_id": "000027", "instance_id": "000029"}','done','{}',1893456082570000);
INSERT INTO "intents" VALUES('job','000037',0,'000038','start_job','{"object_id": "000037", "instance_id": "000038"}','done','{}',1893456097760000);
INSERT INTO "intents" VALUES('job','000037',1,'000038','forget_job','{"object_id": "000037", "instance_id": "000038"}','pending','null',1893456097800000);
CREATE TABLE jobs (
	id VARCHAR(36) NOT NULL, 
	run_id VARCHAR(36) NOT NULL, 
	project_id VARCHAR(36) NOT NULL, 
	replica INTEGER NOT NULL, 
	node INTEGER NOT NULL, 
	nodes INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	status_since BIGINT NOT NULL, 
	submitted_at BIGINT NOT NULL, 
	demand JSON NOT NULL, 
	stop_grace_s FLOAT NOT NULL, 
	max_duration_s FLOAT, 
	instance_id VARCHAR(36), 
	share JSON NOT NULL, 
	started_at BIGINT, 
	finished_at BIGINT, 
	reason VARCHAR(40), 
	detail TEXT NOT NULL, 
	stop_asked VARCHAR(40), 
	report JSON, 
	lost_at BIGINT, 
	exit_code INTEGER, 
	signal INTEGER, 
	version INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run_id) REFERENCES runs (id), 
	FOREIGN KEY(project_id) REFERENCES projects (id), 
	FOREIGN KEY(instance_id) REFERENCES instances (id)
);
INSERT INTO "jobs" VALUES('000005','000004','000003',0,0,1,1,'done',1893456025630000,1893456000000000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 4096, "gpus": [], "container": false}',NULL,1893456025630000,'exited','',NULL,'{"job_id": "000005", "state": "ended", "started_at": 25.580000000000005, "ended_at": null, "end": "exited", "exit_code": 0, "signal": null, "message": "", "log_bytes": 6, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 25.580000000000005}',NULL,0,NULL,6);
INSERT INTO "jobs" VALUES('000008','000007','000003',0,0,1,1,'failed',1893456025690000,1893456025630000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 4096, "gpus": [], "container": false}',NULL,1893456025690000,'container_exited_with_error','exit code 3','server','{"job_id": "000008", "state": "ended", "started_at": 25.640000000000015, "ended_at": null, "end": "exited", "exit_code": 3, "signal": null, "message": "", "log_bytes": 5, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 25.640000000000015}',NULL,3,NULL,7);
INSERT INTO "jobs" VALUES('000010','000009','000003',0,0,1,1,'failed',1893456025750000,1893456025690000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 4096, "gpus": [], "container": false}',NULL,1893456025750000,'container_exited_with_error','exit code 1',NULL,'{"job_id": "000010", "state": "ended", "started_at": 25.700000000000024, "ended_at": null, "end": "exited", "exit_code": 1, "signal": null, "message": "", "log_bytes": 10, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 25.700000000000024}',NULL,1,NULL,6);
INSERT INTO "jobs" VALUES('000012','000009','000003',0,0,1,2,'done',1893456030810000,1893456030750000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 4096, "gpus": [], "container": false}',NULL,1893456030810000,'exited','',NULL,'{"job_id": "000012", "state": "ended", "started_at": 30.760000000000034, "ended_at": null, "end": "exited", "exit_code": 0, "signal": null, "message": "", "log_bytes": 10, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 30.760000000000034}',NULL,0,NULL,6);
INSERT INTO "jobs" VALUES('000014','000013','000003',0,0,1,1,'running',1893456030830000,1893456030810000,'{"cpus": {"min": 1, "max": 1, "written": true}, "memory_mib": {"min": 1024, "max": 1024, "written": true}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 1024, "gpus": [], "container": false}',1893456030830000,NULL,NULL,'',NULL,'{"job_id": "000014", "state": "running", "started_at": 30.820000000000043, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 30.820000000000043}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000016','000015','000003',0,0,2,1,'running',1893456056420000,1893456030830000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["aws"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',30.0,NULL,'000018','{"cpus": 4, "memory_mib": 16384, "gpus": [], "container": false}',1893456056420000,NULL,NULL,'',NULL,'{"job_id": "000016", "state": "running", "started_at": 56.410000000000046, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 56.410000000000046}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000017','000015','000003',0,1,2,1,'running',1893456056420000,1893456030830000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["aws"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',30.0,NULL,'000019','{"cpus": 4, "memory_mib": 16384, "gpus": [], "container": false}',1893456056420000,NULL,NULL,'',NULL,'{"job_id": "000017", "state": "running", "started_at": 56.410000000000046, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 56.410000000000046}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000021','000020','000003',0,0,1,1,'running',1893456056440000,1893456056420000,'{"cpus": {"min": 1, "max": 1, "written": true}, "memory_mib": {"min": 1024, "max": 1024, "written": true}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 1024, "gpus": [], "container": false}',1893456056440000,NULL,NULL,'',NULL,'{"job_id": "000021", "state": "running", "started_at": 56.43000000000004, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 56.43000000000004}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000023','000022','000003',0,0,1,1,'terminated',1893456056980000,1893456056440000,'{"cpus": {"min": 1, "max": 1, "written": true}, "memory_mib": {"min": 1024, "max": 1024, "written": true}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 1024, "gpus": [], "container": false}',1893456056460000,1893456056980000,'stopped_by_user','','stopped_by_user','{"job_id": "000023", "state": "ended", "started_at": 56.45000000000004, "ended_at": null, "end": "stopped", "exit_code": 143, "signal": null, "message": "", "log_bytes": 6, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 56.45000000000004}',NULL,143,NULL,8);
INSERT INTO "jobs" VALUES('000025','000024','000003',0,0,1,1,'running',1893456057000000,1893456056980000,'{"cpus": {"min": 1, "max": 1, "written": true}, "memory_mib": {"min": 1024, "max": 1024, "written": true}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": [], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 300}',10.0,NULL,'000006','{"cpus": 1, "memory_mib": 1024, "gpus": [], "container": false}',1893456057000000,NULL,NULL,'',NULL,'{"job_id": "000025", "state": "running", "started_at": 56.99000000000003, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 56.99000000000003}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000027','000026','000003',0,0,1,1,'running',1893456082590000,1893456057000000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["aws"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 300}',10.0,NULL,'000029','{"cpus": 4, "memory_mib": 16384, "gpus": [], "container": false}',1893456082590000,NULL,NULL,'',NULL,'{"job_id": "000027", "state": "running", "started_at": 82.58000000000004, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 82.58000000000004}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000028','000026','000003',1,0,1,1,'running',1893456057190000,1893456057000000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["aws"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 300}',10.0,NULL,'000030','{"cpus": 4, "memory_mib": 16384, "gpus": [], "container": false}',1893456057190000,NULL,NULL,'',NULL,'{"job_id": "000028", "state": "running", "started_at": 57.18000000000002, "ended_at": null, "end": null, "exit_code": null, "signal": null, "message": "", "log_bytes": null, "logged": false, "layers": [], "working_dir": null, "guests": 0, "alone_since": 57.18000000000002}',NULL,NULL,NULL,4);
INSERT INTO "jobs" VALUES('000035','000034','000003',0,0,1,1,'submitted',1893456057190000,1893456057190000,'{"cpus": {"min": 4, "max": 4, "written": true}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["local"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,NULL,'{"cpus": 0, "memory_mib": 0, "gpus": [], "container": false}',NULL,NULL,NULL,'',NULL,'null',NULL,NULL,NULL,1);
INSERT INTO "jobs" VALUES('000037','000036','000003',0,0,1,1,'failed',1893456097800000,1893456057190000,'{"cpus": {"min": 2, "max": null, "written": false}, "memory_mib": {"min": 8192, "max": null, "written": false}, "disk_mib": {"min": 102400, "max": null, "written": false}, "arch": null, "gpu": null, "backends": ["aws"], "regions": [], "instance_types": [], "max_price": null, "spot": "on-demand", "reservation": null, "fleets": [], "instance_name": null, "reuse_only": false, "container": [], "container_optional": false, "python": null, "idle_duration_s": 3600}',10.0,NULL,'000038','{"cpus": 4, "memory_mib": 16384, "gpus": [], "container": false}',NULL,1893456097800000,'container_exited_with_error','exit code 1',NULL,'{"job_id": "000037", "state": "ended", "started_at": 97.77000000000004, "ended_at": null, "end": "exited", "exit_code": 1, "signal": null, "message": "", "log_bytes": 0, "logged": true, "layers": [], "working_dir": null, "guests": 0, "alone_since": 97.77000000000004}',NULL,1,NULL,6);
CREATE TABLE members (
	project_id VARCHAR(36) NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	role VARCHAR(20) NOT NULL, 
	PRIMARY KEY (project_id, user_id), 
	FOREIGN KEY(project_id) REFERENCES projects (id), 
	FOREIGN KEY(user_id) REFERENCES users (id)
);
INSERT INTO "members" VALUES('000003','000002','admin');
CREATE TABLE metrics (
	job_id VARCHAR(36) NOT NULL, 
	starts_at BIGINT NOT NULL, 
	points BLOB NOT NULL, 
	PRIMARY KEY (job_id, starts_at), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "metrics" VALUES('000014',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000016',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000017',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000021',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000025',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000027',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
INSERT INTO "metrics" VALUES('000028',1893456000000000,X'0160EA00000000003F0000C8420000484200000041701101000000003F0000CA420000484200000041803801000000003F0000CC420000484200000041905F01000000003F0000CE420000484200000041A08601000000003F0000D0420000484200000041');
CREATE TABLE projects (
	id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "projects" VALUES('000003','main',1893456000000000);
CREATE TABLE replicas (
	id VARCHAR(36) NOT NULL, 
	hostname VARCHAR(300) NOT NULL, 
	expires_at BIGINT, 
	PRIMARY KEY (id)
);
INSERT INTO "replicas" VALUES('000001','server',NULL);
CREATE TABLE repos (
	project_id VARCHAR(36) NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	id VARCHAR(200) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	url TEXT, 
	sealed TEXT, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (project_id, user_id, id), 
	FOREIGN KEY(project_id) REFERENCES projects (id), 
	FOREIGN KEY(user_id) REFERENCES users (id)
);
INSERT INTO "repos" VALUES('000003','000002','ada-work','remote','https://git.example/ada/work','gAAAAABrDXiMBTLFBgc2kM_9exZ-97ONtorGRS1QhN9m4E9LAYuiBZpJAKo1XY2trvWwcWQ3UII64UWPLKScO2ZyxGJs6bGbLgvOph2qc0Eh8vUN04EDtf8=',1893456000000000);
CREATE TABLE runs (
	id VARCHAR(36) NOT NULL, 
	project_id VARCHAR(36) NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	type VARCHAR(30) NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	status_since BIGINT NOT NULL, 
	submitted_at BIGINT NOT NULL, 
	spec JSON NOT NULL, 
	priority INTEGER NOT NULL, 
	started_at BIGINT, 
	finished_at BIGINT, 
	reason VARCHAR(40), 
	detail TEXT NOT NULL, 
	stop_asked VARCHAR(40), 
	retry_at BIGINT, 
	failing_since BIGINT, 
	idempotency_key VARCHAR(100), 
	version INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(project_id) REFERENCES projects (id), 
	FOREIGN KEY(user_id) REFERENCES users (id), 
	UNIQUE (idempotency_key)
);
INSERT INTO "runs" VALUES('000004','000003','000002','done','task','done',1893456025630000,1893456000000000,'{"run_name": "done", "configuration": {"type": "task", "idle_duration": "1h", "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456025590000,1893456025630000,'exited','',NULL,NULL,NULL,'000003/91b7584a2265b1f5',5);
INSERT INTO "runs" VALUES('000007','000003','000002','failed','task','failed',1893456025690000,1893456025630000,'{"run_name": "failed", "configuration": {"type": "task", "idle_duration": "1h", "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,NULL,1893456025690000,'container_exited_with_error','exit code 3',NULL,NULL,NULL,'000003/1027c4d1c386bbc4',4);
INSERT INTO "runs" VALUES('000009','000003','000002','repaired','task','done',1893456030810000,1893456025690000,'{"run_name": "repaired", "configuration": {"type": "task", "retry": {}, "idle_duration": "1h", "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456030770000,1893456030810000,'exited','',NULL,NULL,1893456025750000,'000003/1e2feb89414c343c',8);
INSERT INTO "runs" VALUES('000013','000003','000002','running','task','running',1893456030830000,1893456030810000,'{"run_name": "running", "configuration": {"type": "task", "idle_duration": "1h", "env": {"WORD": "${{ secrets.password }}"}, "resources": {"cpu": "1", "memory": "1GB"}, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456030830000,NULL,NULL,'',NULL,NULL,NULL,'000003/c2ce6f447ed4d57b',3);
INSERT INTO "runs" VALUES('000015','000003','000002','gang','task','running',1893456056420000,1893456030830000,'{"run_name": "gang", "configuration": {"type": "task", "backends": ["aws"], "stop_duration": "30s", "idle_duration": "1h", "nodes": 2, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456056420000,NULL,NULL,'',NULL,NULL,NULL,'000003/78e510617311d8a3',3);
INSERT INTO "runs" VALUES('000020','000003','000002','stopped','task','running',1893456056440000,1893456056420000,'{"run_name": "stopped", "configuration": {"type": "task", "idle_duration": "1h", "resources": {"cpu": "1", "memory": "1GB"}, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456056440000,NULL,NULL,'',NULL,NULL,NULL,'000003/7ce42c8218072e8c',3);
INSERT INTO "runs" VALUES('000022','000003','000002','ended','task','terminated',1893456056980000,1893456056440000,'{"run_name": "ended", "configuration": {"type": "task", "idle_duration": "1h", "resources": {"cpu": "1", "memory": "1GB"}, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456056460000,1893456056980000,'stopped_by_user','','stopped_by_user',NULL,NULL,'000003/e4b06ce60741c7a8',6);
INSERT INTO "runs" VALUES('000024','000003','000002','editor','dev-environment','running',1893456057000000,1893456056980000,'{"run_name": "editor", "configuration": {"type": "dev-environment", "resources": {"cpu": "1", "memory": "1GB"}, "ide": "vscode"}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456057000000,NULL,NULL,'',NULL,NULL,NULL,'000003/63ca828dd5f4b3b2',3);
INSERT INTO "runs" VALUES('000026','000003','000002','web','service','running',1893456057190000,1893456057000000,'{"run_name": "web", "configuration": {"type": "service", "backends": ["aws"], "port": "80:8000", "auth": false, "replicas": "2", "commands": ["serve"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,1893456057190000,NULL,NULL,'',NULL,NULL,NULL,'000003/9b810e766ec9d286',3);
INSERT INTO "runs" VALUES('000031','000003','000002','scheduled','task','pending',1893456057190000,1893456057190000,'{"run_name": "scheduled", "configuration": {"type": "task", "idle_duration": "1h", "schedule": {"cron": ["0 12 * * *"]}, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,NULL,NULL,NULL,'the first start is at 2030-01-01 12:00:00 UTC',NULL,1893499200000000,NULL,'000003/442e3d437204e52d',1);
INSERT INTO "runs" VALUES('000034','000003','000002','queued','task','submitted',1893456057190000,1893456057190000,'{"run_name": "queued", "configuration": {"type": "task", "backends": ["local"], "idle_duration": "1h", "resources": {"cpu": "4"}, "priority": 7, "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',7,NULL,NULL,NULL,'',NULL,NULL,NULL,'000003/cd447e35b8b6d8fe',1);
INSERT INTO "runs" VALUES('000036','000003','000002','retrying','task','pending',1893456097800000,1893456057190000,'{"run_name": "retrying", "configuration": {"type": "task", "backends": ["aws"], "retry": {"on_events": ["error"], "duration": "1d"}, "idle_duration": "1h", "commands": ["work"]}, "configuration_path": null, "repo": null, "ssh_public_key": null, "path": null}',0,NULL,NULL,NULL,'attempt 1 failed (exit code 1); attempt 2 starts at 2030-01-01 00:01:42 UTC',NULL,1893456102800000,1893456097800000,'000003/9755d4c13a902931',3);
CREATE TABLE secrets (
	project_id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	sealed TEXT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (project_id, name), 
	FOREIGN KEY(project_id) REFERENCES projects (id)
);
INSERT INTO "secrets" VALUES('000003','password','gAAAAABrDXiMQrmk4uKiYnO9SU4B-L-DNT5nzWDxOvlx1DrYaJI7A227647-eIpDUDXSrsPYO7RDI9qDShXDeexxYWSW62EJxw==',1893456000000000);
CREATE TABLE shards (
	number INTEGER NOT NULL, 
	replica_id VARCHAR(36), 
	epoch BIGINT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "shards" VALUES(0,'000001',1893456000000000);
INSERT INTO "shards" VALUES(1,'000001',1893456000000000);
INSERT INTO "shards" VALUES(2,'000001',1893456000000000);
INSERT INTO "shards" VALUES(3,'000001',1893456000000000);
INSERT INTO "shards" VALUES(4,'000001',1893456000000000);
INSERT INTO "shards" VALUES(5,'000001',1893456000000000);
INSERT INTO "shards" VALUES(6,'000001',1893456000000000);
INSERT INTO "shards" VALUES(7,'000001',1893456000000000);
INSERT INTO "shards" VALUES(8,'000001',1893456000000000);
INSERT INTO "shards" VALUES(9,'000001',1893456000000000);
INSERT INTO "shards" VALUES(10,'000001',1893456000000000);
INSERT INTO "shards" VALUES(11,'000001',1893456000000000);
INSERT INTO "shards" VALUES(12,'000001',1893456000000000);
INSERT INTO "shards" VALUES(13,'000001',1893456000000000);
INSERT INTO "shards" VALUES(14,'000001',1893456000000000);
INSERT INTO "shards" VALUES(15,'000001',1893456000000000);
INSERT INTO "shards" VALUES(16,'000001',1893456000000000);
INSERT INTO "shards" VALUES(17,'000001',1893456000000000);
INSERT INTO "shards" VALUES(18,'000001',1893456000000000);
INSERT INTO "shards" VALUES(19,'000001',1893456000000000);
INSERT INTO "shards" VALUES(20,'000001',1893456000000000);
INSERT INTO "shards" VALUES(21,'000001',1893456000000000);
INSERT INTO "shards" VALUES(22,'000001',1893456000000000);
INSERT INTO "shards" VALUES(23,'000001',1893456000000000);
INSERT INTO "shards" VALUES(24,'000001',1893456000000000);
INSERT INTO "shards" VALUES(25,'000001',1893456000000000);
INSERT INTO "shards" VALUES(26,'000001',1893456000000000);
INSERT INTO "shards" VALUES(27,'000001',1893456000000000);
INSERT INTO "shards" VALUES(28,'000001',1893456000000000);
INSERT INTO "shards" VALUES(29,'000001',1893456000000000);
INSERT INTO "shards" VALUES(30,'000001',1893456000000000);
INSERT INTO "shards" VALUES(31,'000001',1893456000000000);
INSERT INTO "shards" VALUES(32,'000001',1893456000000000);
INSERT INTO "shards" VALUES(33,'000001',1893456000000000);
INSERT INTO "shards" VALUES(34,'000001',1893456000000000);
INSERT INTO "shards" VALUES(35,'000001',1893456000000000);
INSERT INTO "shards" VALUES(36,'000001',1893456000000000);
INSERT INTO "shards" VALUES(37,'000001',1893456000000000);
INSERT INTO "shards" VALUES(38,'000001',1893456000000000);
INSERT INTO "shards" VALUES(39,'000001',1893456000000000);
INSERT INTO "shards" VALUES(40,'000001',1893456000000000);
INSERT INTO "shards" VALUES(41,'000001',1893456000000000);
INSERT INTO "shards" VALUES(42,'000001',1893456000000000);
INSERT INTO "shards" VALUES(43,'000001',1893456000000000);
INSERT INTO "shards" VALUES(44,'000001',1893456000000000);
INSERT INTO "shards" VALUES(45,'000001',1893456000000000);
INSERT INTO "shards" VALUES(46,'000001',1893456000000000);
INSERT INTO "shards" VALUES(47,'000001',1893456000000000);
INSERT INTO "shards" VALUES(48,'000001',1893456000000000);
INSERT INTO "shards" VALUES(49,'000001',1893456000000000);
INSERT INTO "shards" VALUES(50,'000001',1893456000000000);
INSERT INTO "shards" VALUES(51,'000001',1893456000000000);
INSERT INTO "shards" VALUES(52,'000001',1893456000000000);
INSERT INTO "shards" VALUES(53,'000001',1893456000000000);
INSERT INTO "shards" VALUES(54,'000001',1893456000000000);
INSERT INTO "shards" VALUES(55,'000001',1893456000000000);
INSERT INTO "shards" VALUES(56,'000001',1893456000000000);
INSERT INTO "shards" VALUES(57,'000001',1893456000000000);
INSERT INTO "shards" VALUES(58,'000001',1893456000000000);
INSERT INTO "shards" VALUES(59,'000001',1893456000000000);
INSERT INTO "shards" VALUES(60,'000001',1893456000000000);
INSERT INTO "shards" VALUES(61,'000001',1893456000000000);
INSERT INTO "shards" VALUES(62,'000001',1893456000000000);
INSERT INTO "shards" VALUES(63,'000001',1893456000000000);
CREATE TABLE users (
	id VARCHAR(36) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	is_admin BOOLEAN NOT NULL, 
	token_hash VARCHAR(64) NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name), 
	UNIQUE (token_hash)
);
INSERT INTO "users" VALUES('000002','admin',1,'14c6355a8e753d1bb01cd742ab72e5f2b2f3fc8f4e8d226fbe97d13e9c03e705',1893456000000000);
CREATE TABLE wakes (
	kind VARCHAR(20) NOT NULL, 
	id VARCHAR(36) NOT NULL, 
	due_at BIGINT NOT NULL, 
	PRIMARY KEY (kind, id)
);
INSERT INTO "wakes" VALUES('instance','000006',1893456600000000);
INSERT INTO "wakes" VALUES('job','000005',1893456325590000);
INSERT INTO "wakes" VALUES('job','000008',1893456325650000);
INSERT INTO "wakes" VALUES('job','000010',1893456325710000);
INSERT INTO "wakes" VALUES('job','000012',1893456330770000);
INSERT INTO "wakes" VALUES('instance','000018',1893456630830000);
INSERT INTO "wakes" VALUES('instance','000019',1893456630830000);
INSERT INTO "wakes" VALUES('instance','000029',1893456657000000);
INSERT INTO "wakes" VALUES('instance','000030',1893456657000000);
INSERT INTO "wakes" VALUES('run','000031',1893499200000000);
INSERT INTO "wakes" VALUES('instance','000038',1893456657190000);
INSERT INTO "wakes" VALUES('job','000037',1893456397780000);
INSERT INTO "wakes" VALUES('run','000036',1893456102800000);
CREATE INDEX intents_by_state ON intents (state);
CREATE INDEX wakes_due ON wakes (due_at);
CREATE INDEX events_of_run ON events (run_id, seq);
CREATE INDEX runs_by_name ON runs (project_id, name, id);
CREATE INDEX runs_of_project ON runs (project_id, id);
CREATE INDEX runs_active ON runs (project_id, finished_at, id);
CREATE INDEX instances_live ON instances (finished_at);
CREATE INDEX jobs_on_instance ON jobs (instance_id, finished_at);
CREATE INDEX jobs_of_run ON jobs (run_id);
CREATE INDEX jobs_by_status ON jobs (status);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',97);
COMMIT;
