/**
 * The parts of a backup in a process of its own, for whoever measures it: a directory is read that no PostgreSQL needs to
 * have made, so that any size is there in a moment. Standard input: JSON of `PartsOrder`.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { DATA_AREA, planParts } from '../../core/backup-plan.ts';
import { writeParts } from '../../operations/backup-pool.ts';
import { fromPlain, type PlainStoreConfig } from '../../stores/store-config.ts';
import type { Codec } from '../../streams/codec.ts';

export interface PartsOrder {
  readonly store: PlainStoreConfig;
  /** The folder of the repository. */
  readonly server: string;
  /** All files directly in it are stored. */
  readonly root: string;
  readonly codec: Codec;
  readonly jobs: number;
  readonly maxPartBytes: number;
}

const { store, server, root, codec, jobs, maxPartBytes } = JSON.parse(
  await text(process.stdin),
) as PartsOrder;
const files = readdirSync(root).map((path) => ({ path, sizeBytes: statSync(join(root, path)).size }));
const tasks = planParts([{ area: DATA_AREA, files }], { jobs, maxPartBytes }).map((part) => ({
  area: part.area,
  name: `data_${part.index}.tar`,
  key: `${server}/data_${part.index}.tar`,
  filesKey: `${server}/data_${part.index}.files.gz`,
  root,
  directories: [],
  files: part.files,
  inline: [],
  codec,
}));
const { signal } = new AbortController();
const parts = await writeParts(tasks, { jobs, store: fromPlain(store), signal, onProgress: () => {} });
console.log(
  JSON.stringify({
    parts: parts.length,
    storedBytes: parts.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
  }),
);
