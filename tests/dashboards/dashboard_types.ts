// A dashboard as a file has it: Grafana's types, with the strings that its enums stand for and with the options of each kind of
// panel, which Grafana's own type of a panel leaves open. What is left out of options gets Grafana's default.
import type { Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from "raw/dashboard/x/dashboard_types.gen";
import type { Options as BarGauge } from "raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { FieldConfig as HeatmapField, Options as Heatmap } from "raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as Stat } from "raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { FieldConfig as TableField, Options as Table } from "raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type {
  FieldConfig as TimeSeriesField,
  Options as TimeSeries,
} from "raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

type Written<T> = unknown extends T ? T
  : T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends Array<infer Item> ? Array<Written<Item>>
  : { [Key in keyof T]: Written<T[Key]> };

type Partly<T> = unknown extends T ? T
  : T extends Array<infer Item> ? Array<Partly<Item>>
  : T extends object ? { [Key in keyof T]?: Partly<T[Key]> }
  : T;

interface Fields<Custom> extends Omit<FieldConfigSource, "defaults"> {
  defaults: Omit<FieldConfig, "custom"> & { custom?: Partly<Custom> };
}

interface Drawn<Kind, Options, Custom> extends Omit<Panel, "type" | "options" | "fieldConfig"> {
  type: Kind;
  options: Partly<Options>;
  fieldConfig: Fields<Custom>;
}

type AnyPanel =
  | (Omit<RowPanel, "type"> & { type: "row" })
  | Drawn<"timeseries", TimeSeries, TimeSeriesField>
  | Drawn<"stat", Stat, never>
  | Drawn<"bargauge", BarGauge, never>
  | Drawn<"heatmap", Heatmap, HeatmapField>
  | Drawn<"table", Table, TableField>;

export type DashboardFile = Written<Omit<Dashboard, "panels"> & { panels: AnyPanel[] }>;
