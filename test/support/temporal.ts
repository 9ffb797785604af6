import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { onCleanUp } from './cleanup.ts';
import { freePort, type Process, runSuccessfully, startProcess } from './processes.ts';
import { makeTempDir } from './temp.ts';
import { toolPath } from './tools.ts';
import { until } from './wait.ts';

export interface TemporalServer {
  readonly address: string;
  readonly namespace: string;
  /** Of the Web UI; nobody answers there unless it was asked for. */
  readonly uiUrl: string;
  /** For the command lines of Temporal and of walkeep. */
  readonly environment: Readonly<Record<string, string>>;
  /** A client that is closed with the test file. */
  client(): Promise<Client>;
  /** Runs `temporal ...` against this server. @returns standard output */
  cli(...args: string[]): Promise<string>;
  stop(): Promise<void>;
  kill9(): Promise<void>;
  /** Again, on the same ports and with the same state. */
  start(): Promise<void>;
  /** Forgets all it knew, as with its disk lost; only while it is stopped. */
  deleteState(): void;
}

const SEARCH_ATTRIBUTES = [
  'WalkeepCluster',
  'WalkeepNamespace',
  'WalkeepOperation',
  'WalkeepBackup',
  'WalkeepPhase',
];

/**
 * A Temporal dev server of a test's own, its state in a file so that it outlives `kill9`, ended with the test file at
 * the latest. `TestWorkflowEnvironment.createLocal` can't be killed and come back, so this is no part of it.
 *
 * @param options.searchAttributes register walkeep's (all are keywords), by default yes
 */
export async function startTemporal({
  ui = false,
  searchAttributes = true,
}: { ui?: boolean; searchAttributes?: boolean } = {}): Promise<TemporalServer> {
  const program = toolPath('temporal');
  const database = join(makeTempDir('temporal'), 'temporal.db');
  const [port, uiPort] = [await freePort(), await freePort()];
  const address = `127.0.0.1:${port}`;
  const environment = { TEMPORAL_ADDRESS: address, TEMPORAL_NAMESPACE: 'default' };
  let server: Process | undefined;

  const connect = async (): Promise<Connection> => Connection.connect({ address, connectTimeout: 2000 });
  const start = async (): Promise<void> => {
    const args = [
      'server',
      'start-dev',
      '--ip',
      '127.0.0.1',
      '--port',
      String(port),
      '--db-filename',
      database,
    ];
    args.push('--log-level', 'error', ...(ui ? ['--ui-port', String(uiPort)] : ['--headless']));
    if (searchAttributes)
      args.push(...SEARCH_ATTRIBUTES.flatMap((name) => ['--search-attribute', `${name}=Keyword`]));
    const started = startProcess(program, args);
    server = started;
    const answers = async (): Promise<boolean> => {
      if (!started.isRunning()) return true;
      const connection = await connect();
      await connection.workflowService.describeNamespace({ namespace: 'default' });
      await connection.close();
      return true;
    };
    await until('Temporal to answer', answers, { timeoutMs: 60_000, everyMs: 100 });
    if (!started.isRunning()) throw new Error(`Temporal did not start:\n${started.output()}`);
  };

  await start();
  return {
    address,
    namespace: 'default',
    uiUrl: `http://127.0.0.1:${uiPort}`,
    environment,
    async client() {
      const connection = await connect();
      onCleanUp(() => connection.close());
      return new Client({ connection });
    },
    cli: (...args) => runSuccessfully(program, args, { env: { ...process.env, ...environment } }),
    start,
    async stop() {
      await server?.stop();
    },
    async kill9() {
      await server?.kill9();
    },
    deleteState() {
      for (const suffix of ['', '-shm', '-wal']) rmSync(`${database}${suffix}`, { force: true });
    },
  };
}
