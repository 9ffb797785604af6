import {
  connect,
  connectionFromEnvironment,
  disconnect,
  type ConnectionSettings,
} from '../postgres/connection.ts';
import type { Log } from './log.ts';

const ASK_MS = 10_000;

/**
 * The server that a standby follows: a backup of the standby holds a second lock there, and asks there for a WAL
 * switch. `WALKEEP_PRIMARY_HOST` and `WALKEEP_PRIMARY_PORT` say where it is; otherwise the standby is asked whom it
 * receives from. Everything else is as for the standby itself.
 *
 * @returns `undefined` for a primary, and when the primary can't be reached: the backup then goes without that lock
 */
export async function findPrimary(
  postgres: ConnectionSettings,
  environment: NodeJS.ProcessEnv,
  log: Log,
): Promise<ConnectionSettings | undefined> {
  const signal = AbortSignal.timeout(ASK_MS);
  try {
    const place = await senderOf(postgres, environment, signal);
    if (!place) return undefined;
    const primary = { ...postgres, ...place };
    await disconnect(await connect(primary, { applicationName: 'walkeep', signal }));
    return primary;
  } catch (error) {
    log.warn(
      { error },
      'the primary of this standby can not be asked; backups of the standby hold no lock there',
    );
    return undefined;
  }
}

async function senderOf(
  postgres: ConnectionSettings,
  environment: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<{ host: string; port: number } | undefined> {
  const client = await connect(postgres, { applicationName: 'walkeep', signal });
  try {
    const { rows } = await client.query<{ standby: boolean; host: string | null; port: number | null }>(
      `select pg_is_in_recovery() as standby, r.sender_host as host, r.sender_port as port
         from (select 1) one left join pg_stat_wal_receiver r on true`,
    );
    const [row] = rows;
    if (!row?.standby) return undefined;
    const { host, port } = connectionFromEnvironment({
      PGHOST: environment['WALKEEP_PRIMARY_HOST'] ?? row.host ?? undefined,
      PGPORT: environment['WALKEEP_PRIMARY_PORT'] ?? (row.port === null ? undefined : String(row.port)),
    });
    return environment['WALKEEP_PRIMARY_HOST'] || row.host ? { host, port } : undefined;
  } finally {
    await disconnect(client);
  }
}
