-- What lies in an object, in its order, and how many bytes of it are in use: without a look at the chunks' own rows.
CREATE INDEX chunks_by_place ON chunks (object, frame_offset, frame_len);
DROP INDEX chunks_by_object;
