import { connect as connectSocket } from 'node:net';
import { Client, Connection, isGrpcServiceError } from '@temporalio/client';
import { BackupError } from '../core/errors.ts';
import { explainTrouble } from '../workers/connection-trouble.ts';
import { requireSharedKey } from '../workers/payload-key-check.ts';
import { makeReadable } from '../workers/readable.ts';
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

/**
 * Connects, or says within seconds that Temporal is away.
 *
 * @throws BackupError `temporal-unavailable` | `config-invalid` | `secret-missing` (another key than the fleet has)
 */
export async function connectTemporal(environment: NodeJS.ProcessEnv = process.env): Promise<TemporalClient> {
  const { connectionOptions, temporalNamespace, payloads } = temporalSettings(environment);
  const { address } = connectionOptions;
  await refuseWhereNobodyListens(address);
  let connection: Connection;
  try {
    connection = await Connection.connect({ ...connectionOptions, connectTimeout: CONNECT_MS });
  } catch (cause) {
    const why = await explainTrouble(connectionOptions);
    throw unavailable(address, `does not answer${why ? `: ${why}` : ''}`, cause);
  }
  const { codec, encrypts, dataConverter } = payloads;
  const client = new Client({ connection, namespace: temporalNamespace, dataConverter });
  const call: TemporalClient['call'] = async (what, calls, deadlineMs = CALL_MS) => {
    try {
      const answer = await connection.withDeadline(Date.now() + deadlineMs, () => calls(client));
      if (encrypts && isRaw(answer)) await makeReadable(answer, codec);
      return answer;
    } catch (error) {
      throw isAway(error) ? unavailable(address, `did not answer in time (${what})`, error) : error;
    }
  };
  if (encrypts) {
    try {
      await call('look at the keys', () =>
        requireSharedKey(connection.workflowService, temporalNamespace, codec),
      );
    } catch (error) {
      await connection.close();
      throw error;
    }
  }
  return {
    client,
    address,
    temporalNamespace,
    call,
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

/** A history or a description: what the library hands on without converting it. */
function isRaw(answer: unknown): answer is object {
  return typeof answer === 'object' && answer !== null && ('events' in answer || 'raw' in answer);
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
