import { connect, disconnect, type ConnectionSettings } from './connection.ts';
import { postgresError } from './postgres-error.ts';

/**
 * Closes the current segment of a primary, so that it is archived although nobody writes. Does nothing when nothing was
 * written since the last one was closed.
 *
 * @throws BackupError `postgres-denied` | `postgres-unavailable` | `postgres-unsuitable` on a standby
 */
export async function switchWal(settings: ConnectionSettings, signal: AbortSignal): Promise<void> {
  const client = await connect(settings, { applicationName: 'walkeep switch wal', signal });
  try {
    await client.query('select pg_switch_wal()');
  } catch (error) {
    throw postgresError(error, 'pg_switch_wal');
  } finally {
    await disconnect(client);
  }
}
