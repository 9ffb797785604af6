import type { ControlPorts } from '../activities/control.ts';
import type { JobRegistry } from '../operations/job-registry.ts';
import type { Log } from './log.ts';

/** Control of what runs in this process. */
export function createControlPorts({ jobs, log }: { jobs: JobRegistry; log: Log }): ControlPorts {
  return {
    control(key, control) {
      const reached = jobs.control(key, control);
      log.info({ key, control, reached }, 'control of a backup');
      return reached;
    },
  };
}
