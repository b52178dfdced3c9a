"""The bridge to Typer: options of dataclasses as parameters, groups, help pages, and errors about options.

Other modules use what Typer documents: applications, commands, callbacks, arguments, contexts and `BadParameter`. This
package uses the following, and its tests run with the oldest and the newest supported release (docs/compatibility.md):

- `TyperGroup` and `TyperCommand` are classes whose `get_params`, `parse_args`, `get_help`, `invoke`, `get_command` and
  `list_commands` may be overridden; `typer.Typer(cls=...)` and `command(cls=...)` accept subclasses.
- `typer.main.get_command` and `get_group` make commands from functions; their parameters have `name`, `opts`,
  `secondary_opts`, `metavar`, `help`, `hidden`, `required`, `default`, `callback`, `param_type_name`, `nargs`,
  `human_readable_name`, and the methods `value_is_missing(value)` and `process_value(ctx, value)`; the latter may be
  replaced by an attribute of the instance.
- A context has `params`, `meta`, `command`, `command_path`, `info_name`, `invoked_subcommand`, `resilient_parsing`,
  `help_option_names` and `find_root()`.
- The error about an unknown option has `option_name`, `possibilities` and `ctx`; usage errors have `exit_code` and
  `format_message()`; their base class has the name `ClickException`; a group without a command raises
  `NoArgsIsHelpError`.
- `typer.completion.install_callback` and `show_callback` install and print completion. A shell that completes a line
  passes it in `COMP_WORDS` or `_TYPER_COMPLETE_ARGS`, and sets a variable that ends with `_COMPLETE`.
"""
