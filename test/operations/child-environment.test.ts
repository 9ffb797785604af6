import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { syncTrees } from '../../operations/sync-trees.ts';
import { findPrograms } from '../../postgres/programs.ts';
import { makeTempDir } from '../support/temp.ts';

const CANARY = 'c4n4ry-s3cr3t';
const signal = new AbortController().signal;
afterEach(() => vi.unstubAllEnvs());

/** A directory with a program that writes down its environment and says `answer`. */
function makeProgram(name: string, answer: string): { directory: string; seen: string } {
  const directory = makeTempDir('program');
  const seen = join(directory, 'environment');
  writeFileSync(join(directory, name), `#!/bin/sh\n/usr/bin/env > '${seen}'\necho '${answer}'\n`);
  chmodSync(join(directory, name), 0o755);
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', CANARY);
  vi.stubEnv('WALKEEP_SECRET_STORE_KEYS_KEY', CANARY);
  vi.stubEnv('WALKEEP_PAYLOAD_KEY', CANARY);
  return { directory, seen };
}

it.runIf(process.platform === 'linux')('S1: sync gets no key that this process has', async () => {
  const { directory, seen } = makeProgram('sync', '');
  vi.stubEnv('PATH', directory);
  await syncTrees([directory], signal);
  expect(existsSync(seen)).toBe(true);
  expect(readFileSync(seen, 'utf8')).not.toContain(CANARY);
});

it('S1: a PostgreSQL that is asked for its version gets no key that this process has', async () => {
  const { directory, seen } = makeProgram('postgres', 'postgres (PostgreSQL) 17.1');
  expect(await findPrograms({ majorVersion: 17, binDirectory: directory, signal })).toBe(directory);
  expect(readFileSync(seen, 'utf8')).not.toContain(CANARY);
});
