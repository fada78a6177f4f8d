BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'holdfast_cloud','1_first_tables','2026-11-25 21:02:53.364243+00:00');
CREATE TABLE conflicts (
        stream_no INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        digest BLOB NOT NULL,
        received_at REAL NOT NULL,
        payload TEXT NOT NULL,
        PRIMARY KEY (stream_no, seq, digest));
INSERT INTO "conflicts" VALUES(2,3,X'57912013C3CDC74B98AA8E97EC04F4D979423294E819A3D339FCD8074C4FC335',1769596200.0,'{"seq":3,"image_id":"another","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
CREATE TABLE devices (
        device_no INTEGER PRIMARY KEY,
        edge_device_id TEXT NOT NULL UNIQUE,
        first_seen_at REAL NOT NULL,
        last_seen_at REAL NOT NULL,
        last_was_late INTEGER NOT NULL,
        pending INTEGER);
INSERT INTO "devices" VALUES(1,'chaos',1769596200.0,1769596200.0,0,NULL);
INSERT INTO "devices" VALUES(2,'other',1769596200.0,1769596200.0,0,NULL);
CREATE TABLE explained_ranges (
        stream_no INTEGER NOT NULL,
        low INTEGER NOT NULL,
        high INTEGER NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (stream_no, low)) WITHOUT ROWID;
INSERT INTO "explained_ranges" VALUES(2,15,16,'evicted');
INSERT INTO "explained_ranges" VALUES(2,24,24,'rejected: image_id: Expected `str` of length >= 1');
CREATE TABLE models (
        model_no INTEGER PRIMARY KEY,
        model_name TEXT NOT NULL,
        model_version TEXT NOT NULL,
        UNIQUE (model_name, model_version));
INSERT INTO "models" VALUES(1,'surface-defects','1');
INSERT INTO "models" VALUES(2,'surface-defects','2');
CREATE TABLE predictions (
        number INTEGER PRIMARY KEY,
        device_no INTEGER NOT NULL,
        stream_no INTEGER NOT NULL,
        model_no INTEGER NOT NULL,
        seq INTEGER,
        timestamp REAL NOT NULL,
        received_at REAL NOT NULL,
        late INTEGER NOT NULL,
        defect_detected INTEGER NOT NULL,
        classes TEXT,
        payload TEXT NOT NULL);
INSERT INTO "predictions" VALUES(1,1,1,1,1,1769596241.0,1769596200.0,0,1,'["scratch"]','{"seq":1,"image_id":"past-1","timestamp":1769596241.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(2,1,1,1,2,1769596242.0,1769596200.0,0,1,'["scratch"]','{"seq":2,"image_id":"past-2","timestamp":1769596242.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(3,1,1,1,3,1769596243.0,1769596200.0,0,1,'["scratch"]','{"seq":3,"image_id":"past-3","timestamp":1769596243.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(4,1,1,1,4,1769596244.0,1769596200.0,0,1,'["scratch"]','{"seq":4,"image_id":"past-4","timestamp":1769596244.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(5,1,1,1,5,1769596245.0,1769596200.0,0,1,'["scratch"]','{"seq":5,"image_id":"past-5","timestamp":1769596245.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(6,1,1,1,6,1769596246.0,1769596200.0,0,1,'["scratch"]','{"seq":6,"image_id":"past-6","timestamp":1769596246.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(7,1,1,1,7,1769596247.0,1769596200.0,0,1,'["scratch"]','{"seq":7,"image_id":"past-7","timestamp":1769596247.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(8,1,1,1,8,1769596248.0,1769596200.0,0,1,'["scratch"]','{"seq":8,"image_id":"past-8","timestamp":1769596248.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(9,1,1,1,9,1769596249.0,1769596200.0,0,1,'["scratch"]','{"seq":9,"image_id":"past-9","timestamp":1769596249.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(10,1,1,1,10,1769596250.0,1769596200.0,0,1,'["scratch"]','{"seq":10,"image_id":"past-10","timestamp":1769596250.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(11,1,1,1,11,1769596251.0,1769596200.0,0,1,'["scratch"]','{"seq":11,"image_id":"past-11","timestamp":1769596251.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(12,1,1,1,12,1769596252.0,1769596200.0,0,1,'["scratch"]','{"seq":12,"image_id":"past-12","timestamp":1769596252.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(13,1,1,1,13,1769596253.0,1769596200.0,0,1,'["scratch"]','{"seq":13,"image_id":"past-13","timestamp":1769596253.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(14,1,1,1,14,1769596254.0,1769596200.0,0,1,'["scratch"]','{"seq":14,"image_id":"past-14","timestamp":1769596254.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(15,1,1,1,15,1769596255.0,1769596200.0,0,1,'["scratch"]','{"seq":15,"image_id":"past-15","timestamp":1769596255.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(16,1,1,1,16,1769596256.0,1769596200.0,0,1,'["scratch"]','{"seq":16,"image_id":"past-16","timestamp":1769596256.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(17,1,1,1,17,1769596257.0,1769596200.0,0,1,'["scratch"]','{"seq":17,"image_id":"past-17","timestamp":1769596257.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(18,1,1,1,18,1769596258.0,1769596200.0,0,1,'["scratch"]','{"seq":18,"image_id":"past-18","timestamp":1769596258.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(19,1,1,1,19,1769596259.0,1769596200.0,0,1,'["scratch"]','{"seq":19,"image_id":"past-19","timestamp":1769596259.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(20,1,1,1,20,1769596260.0,1769596200.0,0,1,'["scratch"]','{"seq":20,"image_id":"past-20","timestamp":1769596260.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(21,1,1,1,25,1769596265.0,1769596200.0,0,1,'["scratch"]','{"seq":25,"image_id":"past-25","timestamp":1769596265.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(22,1,1,1,26,1769596266.0,1769596200.0,0,1,'["scratch"]','{"seq":26,"image_id":"past-26","timestamp":1769596266.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(23,1,1,1,27,1769596267.0,1769596200.0,0,1,'["scratch"]','{"seq":27,"image_id":"past-27","timestamp":1769596267.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(24,1,1,1,28,1769596268.0,1769596200.0,0,1,'["scratch"]','{"seq":28,"image_id":"past-28","timestamp":1769596268.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(25,1,1,1,29,1769596269.0,1769596200.0,0,1,'["scratch"]','{"seq":29,"image_id":"past-29","timestamp":1769596269.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(26,1,1,1,30,1769596270.0,1769596200.0,0,1,'["scratch"]','{"seq":30,"image_id":"past-30","timestamp":1769596270.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.9,"bbox":[1.0,2.0,30.0,40.0]}],"defect_detected":true,"confidence_scores":[0.9]}');
INSERT INTO "predictions" VALUES(27,2,2,1,1,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":1,"image_id":"other-1","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(28,2,2,1,2,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":2,"image_id":"other-2","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(29,2,2,1,3,1769596140.0,1769596200.0,0,1,'["scratch"]','{"seq":3,"image_id":"other-3","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(30,2,2,1,4,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":4,"image_id":"other-4","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(31,2,2,1,5,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":5,"image_id":"other-5","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(32,2,2,1,6,1769596140.0,1769596200.0,0,1,'["scratch"]','{"seq":6,"image_id":"other-6","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(33,2,2,1,7,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":7,"image_id":"other-7","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(34,2,2,1,8,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":8,"image_id":"other-8","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(35,2,2,1,9,1769596140.0,1769596200.0,0,1,'["scratch"]','{"seq":9,"image_id":"other-9","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(36,2,2,1,10,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":10,"image_id":"other-10","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(37,2,2,1,11,1769596140.0,1769596200.0,1,0,'["scratch"]','{"seq":11,"image_id":"other-11","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(38,2,2,1,12,1769596140.0,1769596200.0,1,1,'["scratch"]','{"seq":12,"image_id":"other-12","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(39,2,2,1,13,1769596140.0,1769596200.0,1,0,'["scratch"]','{"seq":13,"image_id":"other-13","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(40,2,2,1,14,1769596140.0,1769596200.0,1,0,'["scratch"]','{"seq":14,"image_id":"other-14","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(41,2,2,1,18,1769596140.0,1769596200.0,0,1,'["scratch"]','{"seq":18,"image_id":"other-18","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(42,2,2,1,19,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":19,"image_id":"other-19","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(43,2,2,1,20,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":20,"image_id":"other-20","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(44,2,2,1,21,1769596140.0,1769596200.0,0,1,'["scratch"]','{"seq":21,"image_id":"other-21","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":true,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(45,2,2,1,25,1769596140.0,1769596200.0,0,0,'["scratch"]','{"seq":25,"image_id":"other-25","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(46,2,3,1,NULL,1769596140.0,1769596200.0,0,0,'["scratch"]','{"image_id":"plain-1","timestamp":1769596140.0,"model_version":"1","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
INSERT INTO "predictions" VALUES(47,2,3,2,NULL,1769596140.0,1769596200.0,0,0,'["scratch"]','{"image_id":"plain-2","timestamp":1769596140.0,"model_version":"2","model_name":"surface-defects","inference_time_ms":4.5,"detections":[{"class":"scratch","confidence":0.5,"bbox":[1,2,3,4]}],"defect_detected":false,"confidence_scores":[0.5]}');
CREATE TABLE stored_ranges (
        stream_no INTEGER NOT NULL,
        low INTEGER NOT NULL,
        high INTEGER NOT NULL,
        PRIMARY KEY (stream_no, low)) WITHOUT ROWID;
INSERT INTO "stored_ranges" VALUES(1,1,20);
INSERT INTO "stored_ranges" VALUES(1,25,30);
INSERT INTO "stored_ranges" VALUES(2,1,14);
INSERT INTO "stored_ranges" VALUES(2,18,21);
INSERT INTO "stored_ranges" VALUES(2,25,25);
CREATE TABLE streams (
        stream_no INTEGER PRIMARY KEY,
        device_no INTEGER NOT NULL,
        stream_id TEXT NOT NULL,
        unnumbered INTEGER NOT NULL DEFAULT 0,
        duplicates INTEGER NOT NULL DEFAULT 0,
        conflicts INTEGER NOT NULL DEFAULT 0,
        rejected INTEGER NOT NULL DEFAULT 0,
        UNIQUE (device_no, stream_id));
INSERT INTO "streams" VALUES(1,1,'01M89M50N6Y8QXW99CGN82TV8G',0,0,0,0);
INSERT INTO "streams" VALUES(2,2,'other-stream',0,3,1,1);
INSERT INTO "streams" VALUES(3,2,'',2,0,0,0);
CREATE TABLE tallies (
        device_no INTEGER NOT NULL,
        model_no INTEGER NOT NULL,
        predictions INTEGER NOT NULL,
        defects INTEGER NOT NULL,
        PRIMARY KEY (device_no, model_no)) WITHOUT ROWID;
INSERT INTO "tallies" VALUES(1,1,26,26);
INSERT INTO "tallies" VALUES(2,1,20,6);
INSERT INTO "tallies" VALUES(2,2,1,0);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX predictions_by_seq ON predictions (stream_no, seq) WHERE seq IS NOT NULL;
CREATE INDEX predictions_by_time ON predictions (timestamp);
CREATE INDEX predictions_by_device ON predictions (device_no, timestamp);
CREATE INDEX predictions_with_defect ON predictions (timestamp) WHERE defect_detected = 1;
COMMIT;
