import { archiveCommand, restoreCommand } from '../core/wal-commands.ts';
import { thisInstallation } from './installation.ts';

/** What the lines of a cluster's server depend on; absolute paths of this host. */
export interface WalCommandRequest {
  readonly namespace: string;
  readonly cluster: string;
  readonly pgdata: string;
  /** The state directory: PostgreSQL's environment does not name it. */
  readonly stateDirectory: string;
  /** Where secrets are mounted (`$WALKEEP_SECRETS_DIR`), if they are. */
  readonly secretsDirectory?: string | undefined;
  /** The worker's. */
  readonly socketPath: string;
}

/** The value of `archive_command` for a server on this host. @throws BackupError `config-invalid` */
export function archiveCommandLine(request: WalCommandRequest): string {
  return archiveCommand({ ...thisInstallation(), socket: request.socketPath, options: optionsOf(request) });
}

/**
 * The value of `restore_command` for a standby of a cluster on this host, which follows the cluster's own archive.
 *
 * @throws BackupError `config-invalid`
 */
export function restoreCommandLine(request: WalCommandRequest): string {
  return restoreCommand({ ...thisInstallation(), socket: request.socketPath, options: optionsOf(request) });
}

/**
 * The value of `restore_command` for a data directory that a restore made: `walkeep_recovery.json` in it, where
 * PostgreSQL runs the command, says where the archive is. No worker and no manifest are needed.
 *
 * @param options.recoveryFile relative to the data directory, so that it may be moved
 * @param options.socketPath of a worker that serves this data directory, if one will; not for a standby, which an
 *   agent serves from its own cluster's archive
 * @throws BackupError `config-invalid`
 */
export function recoveryCommandLine(options: {
  readonly recoveryFile: string;
  readonly stateDirectory: string;
  readonly secretsDirectory?: string | undefined;
  readonly socketPath?: string | undefined;
}): string {
  const { recoveryFile, socketPath } = options;
  return restoreCommand({
    ...thisInstallation(),
    ...(socketPath === undefined ? {} : { socket: socketPath }),
    options: ['--recovery', recoveryFile, ...placesOf(options)],
  });
}

function optionsOf({ namespace, cluster, pgdata, ...places }: WalCommandRequest): string[] {
  return ['--cluster', `${namespace}/${cluster}`, '--pgdata', pgdata, ...placesOf(places)];
}

/** PostgreSQL's environment names neither. */
function placesOf(places: {
  readonly stateDirectory: string;
  readonly secretsDirectory?: string | undefined;
}): string[] {
  const { stateDirectory, secretsDirectory } = places;
  return [
    '--state',
    stateDirectory,
    ...(secretsDirectory === undefined ? [] : ['--secrets', secretsDirectory]),
  ];
}
