import { createFilesystemStore } from '../../stores/filesystem.ts';

// writes and replaces objects of one repeated byte for ever, until it is killed
const store = createFilesystemStore(process.argv[2] ?? '');
const signal = new AbortController().signal;
for (let n = 0; ; n++) {
  await store.put(`crash/${n % 5}`, Buffer.alloc(1_000_000, n), { signal, ifAbsent: false });
  if (n === 0) console.log('writing');
}
