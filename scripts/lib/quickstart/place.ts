/** Where a quickstart happens: its folder, its programs, its ports, and the environment of all its commands. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { MARK } from './processes.ts';

/** The root of this clone. */
export const ROOT = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');

export type StoreKind = 'directory' | 's3';

export interface Place {
  readonly scratch: string;
  readonly store: StoreKind;
  readonly major: string;
  readonly ports: {
    readonly temporal: number;
    readonly ui: number;
    readonly metrics: number;
    readonly s3: number;
  };
  /** The whole environment of every command. */
  readonly environment: Readonly<Record<string, string>>;
  /** The file that gives a shell the same environment. */
  readonly environmentFile: string;
}

export interface Wishes {
  readonly scratch: string;
  readonly store: StoreKind;
  readonly major?: string;
}

/** What a run before this one left, except the log files of a run that is looked at, and its pid files. */
const LEFT_OVERS = [
  'pgdata',
  'restored',
  'repository',
  's3',
  'state',
  'logs',
  'run',
  'temporal.db',
  'shop.yaml',
  'env',
];

/** Clears the folder of an earlier run, and finds programs and ports for this one. */
export async function preparePlace({ scratch, store, major: wished }: Wishes): Promise<Place> {
  if (Buffer.byteLength(scratch) > LONGEST_SCRATCH) {
    throw new Error(
      `the path ${scratch} is too long for the unix sockets in it: choose a shorter one, --scratch DIR`,
    );
  }
  for (const name of LEFT_OVERS) rmSync(path.join(scratch, name), { recursive: true, force: true });
  for (const name of ['logs', 'state']) mkdirSync(path.join(scratch, name), { mode: 0o700 });
  const tools = readTools();
  const major = chooseMajor(tools, wished);
  const bin = tools.postgres[major];
  if (bin === undefined) {
    throw new Error(
      `PostgreSQL ${major} is not on this host, which has ${Object.keys(tools.postgres).join(', ')}; see scripts/setup`,
    );
  }
  const ports = {
    temporal: await portNear(7233),
    ui: await portNear(8233),
    metrics: await portNear(9188),
    s3: await portNear(7070),
  };
  const s3Folder = tools.versitygw ? [path.dirname(tools.versitygw)] : [];
  const ours = {
    PATH: [
      path.join(ROOT, 'node_modules/.bin'),
      bin,
      ...s3Folder,
      process.env['PATH'] ?? '/usr/bin:/bin',
    ].join(':'),
    WALKEEP_STATE: path.join(scratch, 'state'),
    WALKEEP_CACHE: tools.cache,
    ...(tools.temporal && { WALKEEP_TEMPORAL: tools.temporal }),
    TEMPORAL_ADDRESS: `127.0.0.1:${ports.temporal}`,
    PGHOST: makeSocketDirectory(scratch),
    PGPORT: '5432',
    PGUSER: 'postgres',
    PGDATABASE: 'postgres',
  };
  const environmentFile = path.join(scratch, 'env');
  writeFileSync(environmentFile, shellLines(ours, scratch));
  return {
    scratch,
    store,
    major,
    ports,
    environment: { ...inherited(process.env), ...ours, [MARK]: scratch },
    environmentFile,
  };
}

interface Tools {
  readonly cache: string;
  readonly temporal?: string;
  readonly versitygw?: string;
  /** `bin` directories by major. */
  readonly postgres: Readonly<Record<string, string>>;
}

/** What scripts/setup found and brought, as it wrote it down a moment ago. */
function readTools(): Tools {
  return JSON.parse(readFileSync(path.join(ROOT, '.walkeep/tools.json'), 'utf8')) as Tools;
}

/** The newest that the host has of its own, else the newest in the cache. */
function chooseMajor({ postgres, cache }: Tools, wished: string | undefined): string {
  if (wished !== undefined) return wished;
  const majors = Object.keys(postgres).toSorted((a, b) => Number(b) - Number(a));
  const [newest] = [...majors.filter((major) => !postgres[major]?.startsWith(`${cache}/`)), ...majors];
  if (newest === undefined) throw new Error('there is no PostgreSQL; run scripts/setup quickstart');
  return newest;
}

/** What a shell of the reader may have set for other servers must not reach ours. */
function inherited(environment: NodeJS.ProcessEnv): Record<string, string> {
  const entries = Object.entries(environment).filter(
    ([name]) => !/^(PG|TEMPORAL_|WALKEEP_|AWS_|CI$|NODE_OPTIONS$)/.test(name),
  );
  return Object.fromEntries(entries.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

function shellLines(ours: Readonly<Record<string, string>>, scratch: string): string {
  const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const lines = Object.entries(ours).map(([name, value]) => `export ${name}=${quote(value)}`);
  return `# For the commands that the quickstart shows:  . ${scratch}/env\n${[...lines, `cd ${quote(scratch)}`].join('\n')}\n`;
}

/** A unix socket's path has 107 bytes at most; this much of it is for what PostgreSQL and walkeep put behind ours. */
const LONGEST_SCRATCH = 107 - 45;

/** A directory for PostgreSQL's socket, which only this user can enter. */
function makeSocketDirectory(scratch: string): string {
  const directory = path.join(scratch, 'run');
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return directory;
}

/** `wanted` if nobody listens there, otherwise any free port of 127.0.0.1. */
async function portNear(wanted: number): Promise<number> {
  return (await tryPort(wanted)) ?? (await tryPort(0)) ?? wanted;
}

function tryPort(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' ? address?.port : undefined));
    });
  });
}

/** Whether a log is there and has something in it; for what is said when a step fails. */
export function lastLines(file: string, count: number): string[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count);
}
