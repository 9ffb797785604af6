import { Client, Connection } from '@temporalio/client';
import { NativeConnection } from '@temporalio/worker';
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { findTemporal } from '../../cli/dev.ts';
import { SEARCH_ATTRIBUTE } from '../../workflows/interface.ts';

/** A development server that says nothing: standard output is for results. */
export interface QuietTemporal {
  readonly client: Client;
  readonly nativeConnection: NativeConnection;
  stop(): Promise<void>;
}

/** Its state is in memory, and ends with it. */
export async function startQuietTemporal(): Promise<QuietTemporal> {
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const attributes = Object.values(SEARCH_ATTRIBUTE).flatMap(({ name }) => [
    '--search-attribute',
    `${name}=Keyword`,
  ]);
  const args = ['server', 'start-dev', '--headless', '--ip', '127.0.0.1', '--port', String(port)];
  const server = spawn(await findTemporal(), [...args, '--log-level', 'never', ...attributes], {
    stdio: 'ignore',
  });
  const ended = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  const connection = await whenItAnswers(() => Connection.connect({ address, connectTimeout: 2_000 }));
  await whenItAnswers(() => connection.workflowService.describeNamespace({ namespace: 'default' }));
  const nativeConnection = await NativeConnection.connect({ address });
  return {
    client: new Client({ connection }),
    nativeConnection,
    async stop() {
      await nativeConnection.close();
      await connection.close();
      server.kill();
      await ended;
    },
  };
}

async function whenItAnswers<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  const until = Date.now() + 60_000;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (Date.now() > until) throw error;
      await delay(100);
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return typeof address === 'object' && address ? address.port : 0;
}
