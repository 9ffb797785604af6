import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { Secret } from '../../core/secret.ts';
import { openStateDirectory } from '../../operations/state-directory.ts';
import { applyTestCluster, type TestCluster } from '../support/applied-cluster.ts';
import { runProcess, runSuccessfully, type Outcome } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { makeSegment } from '../support/wal-segment.ts';

const PROGRAM = join(repositoryRoot, 'scripts/walkeep');

/** A host with applied manifests and secrets, and no Temporal, worker or PostgreSQL: what a command meets on a bad day. */
export interface Host {
  readonly state: string;
  /** Runs `walkeep ARGS` as the server's user. */
  walkeep(...args: string[]): Promise<Outcome>;
  /** As `walkeep`, in a directory: where PostgreSQL runs its commands. */
  walkeepIn(directory: string, ...args: string[]): Promise<Outcome>;
  cluster(cluster: TestCluster): Promise<void>;
  secret(name: string, values: Readonly<Record<string, string>>): Promise<void>;
}

export function createHost(environment: NodeJS.ProcessEnv = {}): Host {
  const state = join(makeTempDir('state'), 's');
  mkdirSync(state, { mode: 0o700 });
  giveToServerUser(state);
  const env = {
    PATH: process.env['PATH'],
    PGHOST: '/nowhere',
    // Nobody listens on port 1.
    TEMPORAL_ADDRESS: '127.0.0.1:1',
    WALKEEP_STATE: state,
    ...environment,
  };
  const walkeepIn: Host['walkeepIn'] = (cwd, ...args) =>
    runProcess(PROGRAM, args, { user: serverUser, env, cwd, timeoutMs: 150_000 });
  return {
    state,
    walkeepIn,
    walkeep: (...args) => walkeepIn('/', ...args),
    async cluster(cluster) {
      await applyTestCluster(state, cluster);
      await giveAll(state);
    },
    async secret(name, values) {
      const secrets = Object.entries(values).map(([key, value]) => [key, new Secret(value)] as const);
      await openStateDirectory(state).createSecret({ namespace: 'default', name, values: new Map(secrets) });
      await giveAll(state);
    },
  };
}

/** Gives a directory with all that is in it to the server's user. */
export async function giveAll(directory: string): Promise<void> {
  if (serverUser) await runSuccessfully('chown', ['-R', `${serverUser.uid}:${serverUser.gid}`, directory]);
}

export const nth = (number: number) =>
  `0000000100000000${number.toString(16).toUpperCase().padStart(8, '0')}`;

/** A `pg_wal` with made-up segments of the test's system (or another), and nothing else of a data directory. */
export async function createPgWal(
  numbers: readonly number[],
  { systemId }: { systemId?: string } = {},
): Promise<string> {
  const pgdata = join(makeTempDir('pgdata'), 'data');
  mkdirSync(join(pgdata, 'pg_wal'), { recursive: true });
  for (const number of numbers)
    writeFileSync(
      join(pgdata, 'pg_wal', nth(number)),
      makeSegment(nth(number), systemId === undefined ? {} : { systemId }),
    );
  chmodSync(pgdata, 0o700);
  await giveAll(pgdata);
  return pgdata;
}

/** What is expected of a command that refuses: its code, and one line that says what happened and what to do. */
export interface Refusal {
  readonly code: number;
  readonly says: RegExp;
  readonly todo: RegExp;
}

/** @param lines how many lines of standard error belong to it; by default the one */
export function expectRefusal(outcome: Outcome, { code, says, todo }: Refusal): void {
  const lines = outcome.stderr.trimEnd().split('\n');
  const about = `${outcome.stdout}${outcome.stderr}`;
  expect(outcome.code, about).toBe(code);
  const last = lines.at(-1) ?? '';
  expect(last, about).toMatch(/^walkeep: /);
  expect(last).toMatch(says);
  expect(last).toMatch(todo);
  // One line for one failure, and no stack of ours.
  expect(
    lines.filter((line) => line.startsWith('walkeep: ')),
    about,
  ).toHaveLength(1);
  expect(about).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
  expect(about).not.toMatch(/unforeseen|undefined|\[object/);
}
