import { connect as connectSocket } from 'node:net';
import { Client, Connection, isGrpcServiceError } from '@temporalio/client';
import { BackupError } from '../core/errors.ts';
import { temporalSettings } from '../workers/temporal-settings.ts';

/** A client of Temporal whose every call ends within `deadlineMs`. */
export interface TemporalClient {
  readonly client: Client;
  readonly address: string;
  readonly temporalNamespace: string;
  /** Runs calls with a deadline; a server that is away or frozen becomes `temporal-unavailable`. */
  call<Result>(
    what: string,
    calls: (client: Client) => Promise<Result>,
    deadlineMs?: number,
  ): Promise<Result>;
  close(): Promise<void>;
}

const CONNECT_MS = 5_000;
const CALL_MS = 15_000;

/** Connects, or says within seconds that Temporal is away. @throws BackupError `temporal-unavailable` | `config-invalid` */
export async function connectTemporal(environment: NodeJS.ProcessEnv = process.env): Promise<TemporalClient> {
  const { connectionOptions, temporalNamespace } = temporalSettings(environment);
  const { address } = connectionOptions;
  await refuseWhereNobodyListens(address);
  let connection: Connection;
  try {
    connection = await Connection.connect({ ...connectionOptions, connectTimeout: CONNECT_MS });
  } catch (cause) {
    throw unavailable(address, 'does not answer', cause);
  }
  const client = new Client({ connection, namespace: temporalNamespace });
  return {
    client,
    address,
    temporalNamespace,
    async call(what, calls, deadlineMs = CALL_MS) {
      try {
        return await connection.withDeadline(Date.now() + deadlineMs, () => calls(client));
      } catch (error) {
        throw isAway(error) ? unavailable(address, `did not answer in time (${what})`, error) : error;
      }
    },
    close: () => connection.close(),
  };
}

/**
 * The client library tries for seconds where nobody listens; commands that work without Temporal should not wait for
 * that. Only a clear no counts: whatever else happens is the library's to judge.
 */
async function refuseWhereNobodyListens(address: string): Promise<void> {
  const match = /^(?:[a-z]+:\/\/)?\[?([^\]]+?)\]?:(\d+)$/.exec(address);
  if (!match) return;
  const refused = await new Promise<Error | undefined>((resolve) => {
    const socket = connectSocket({ host: match[1] as string, port: Number(match[2]), timeout: 1_000 });
    const end = (error?: Error) => {
      socket.destroy();
      resolve(error);
    };
    socket.once('connect', () => end());
    socket.once('timeout', () => end());
    socket.once('error', (error) =>
      end('code' in error && error.code === 'ECONNREFUSED' ? error : undefined),
    );
  });
  if (refused) throw unavailable(address, 'does not answer: nobody listens there', refused);
}

// gRPC's numbers: DEADLINE_EXCEEDED and UNAVAILABLE
const AWAY = new Set([4, 14]);

/** Whether the server could not be reached, wherever in the chain of causes that is said. */
function isAway(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (isGrpcServiceError(cause) && AWAY.has(cause.code)) return true;
  }
  return false;
}

function unavailable(address: string, what: string, cause: unknown): BackupError {
  return new BackupError('temporal-unavailable', `Temporal at ${address} ${what}`, { cause });
}
