import { Command, Option } from 'commander';
import { spawn, type ChildProcess } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { BackupError } from '../core/errors.ts';
import { SEARCH_ATTRIBUTE } from '../workflows/interface.ts';
import { note } from './output.ts';

/** How the embedded server is run. */
export interface DevServerOptions {
  /** The `temporal` program. */
  readonly program: string;
  readonly ip: string;
  readonly port: number;
  readonly uiPort: number;
  /** The SQLite file that keeps Temporal's state over restarts. */
  readonly databaseFile: string;
  readonly namespaces?: readonly string[];
}

/**
 * The `temporal` program: what `WALKEEP_TEMPORAL` names, else the one in PATH, else the one that the set-up keeps in
 * its cache.
 *
 * @throws BackupError `config-invalid` when there is none
 */
export async function findTemporal(environment: NodeJS.ProcessEnv = process.env): Promise<string> {
  const named = environment['WALKEEP_TEMPORAL'];
  if (named) {
    if (await isExecutable(named)) return named;
    throw new BackupError(
      'config-invalid',
      `WALKEEP_TEMPORAL names "${named}", which is not an executable file`,
    );
  }
  const inPath = (environment['PATH'] ?? '')
    .split(path.delimiter)
    .filter(Boolean)
    .map((folder) => path.join(folder, 'temporal'));
  for (const candidate of [...inPath, ...(await cached(environment))])
    if (await isExecutable(candidate)) return candidate;
  throw new BackupError(
    'config-invalid',
    'no "temporal" program was found in PATH or in the cache of the set-up',
    {
      hint: 'run ./scripts/setup, install the Temporal CLI, or set WALKEEP_TEMPORAL to it',
    },
  );
}

/** The command line of the embedded server, without the program. */
export function devServerArguments(options: DevServerOptions): string[] {
  return [
    'server',
    'start-dev',
    `--ip=${options.ip}`,
    `--port=${options.port}`,
    `--ui-port=${options.uiPort}`,
    `--db-filename=${options.databaseFile}`,
    '--log-level=error',
    ...Object.values(SEARCH_ATTRIBUTE).flatMap(({ name }) => ['--search-attribute', `${name}=Keyword`]),
    ...(options.namespaces ?? []).flatMap((name) => ['--namespace', name]),
  ];
}

/** Starts the embedded server; it ends with its process. */
export function startDevServer(options: DevServerOptions): ChildProcess {
  return spawn(options.program, devServerArguments(options), { stdio: ['ignore', 'inherit', 'inherit'] });
}

/** `walkeep dev` */
export function devCommand(): Command {
  return new Command('dev')
    .summary('run an embedded Temporal server with its Web UI, for trying things out')
    .description(
      'Runs Temporal’s development server: one process, its state in one file. For trying things out and for small\n' +
        'set-ups that may lose the history of their runs; backups and WAL never depend on it.',
    )
    .addOption(new Option('--ip <address>', 'address to listen on').default('127.0.0.1'))
    .addOption(new Option('--port <port>', 'port of the server').default(7233).argParser(parsePort))
    .addOption(new Option('--ui-port <port>', 'port of the Web UI').default(8233).argParser(parsePort))
    .addOption(new Option('--state <file>', 'file that keeps the state').default('.walkeep/temporal.db'))
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep dev                          then: export TEMPORAL_ADDRESS=127.0.0.1:7233\n' +
        '  walkeep dev --port 7300 --ui-port 8300 --state /tmp/temporal.db\n',
    )
    .action(async (options: { ip: string; port: number; uiPort: number; state: string }) => {
      const program = await findTemporal();
      const databaseFile = path.resolve(options.state);
      await mkdir(path.dirname(databaseFile), { recursive: true });
      note(
        `Temporal ${options.ip}:${options.port}   Web UI http://${options.ip}:${options.uiPort}   state ${databaseFile}`,
      );
      const server = startDevServer({ program, ...options, databaseFile });
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => server.kill(signal));
      process.exitCode = await exitOf(server, program);
    });
}

async function exitOf(server: ChildProcess, program: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new BackupError('config-invalid', `"${program}" could not be started: ${cause.message}`, { cause }),
      ),
    );
    server.once('exit', (code, signal) =>
      resolve(code ?? (signal === 'SIGINT' || signal === 'SIGTERM' ? 0 : 1)),
    );
  });
}

function parsePort(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65_536) return port;
  throw new BackupError('usage', `not a port: "${text}"`);
}

/** Where scripts/setup puts programs, the newest version first: `<cache>/temporal-<version>/temporal`. */
async function cached(environment: NodeJS.ProcessEnv): Promise<string[]> {
  const home = path.join(environment['XDG_CACHE_HOME'] ?? path.join(homedir(), '.cache'), 'walkeep');
  const caches = environment['WALKEEP_CACHE'] ? [environment['WALKEEP_CACHE']] : ['/var/cache/walkeep', home];
  const found: string[] = [];
  for (const cache of caches) {
    const names = (await readdir(cache).catch(() => [])).filter((name) => /^temporal-\d/.test(name));
    const newestFirst = names.toSorted((a, b) => b.localeCompare(a, 'en', { numeric: true }));
    found.push(...newestFirst.map((name) => path.join(cache, name, 'temporal')));
  }
  return found;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return !(await isFolder(file));
  } catch {
    return false;
  }
}

async function isFolder(file: string): Promise<boolean> {
  return readdir(file).then(
    () => true,
    () => false,
  );
}
